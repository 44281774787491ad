"""HKube's messages as bytes, decoded and encoded once, in the child; child and runner import it."""
