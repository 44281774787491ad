"""What all three processes need: frames, limits, outcomes, the way to an entry. Everybody may import it."""
