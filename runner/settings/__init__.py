"""Options, variables and descriptors, and the frozen Settings made of them; no package below imports it."""
