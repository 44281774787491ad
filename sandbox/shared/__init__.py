"""What all three processes need: frames, limits, outcomes, the user's entry. Every package may import it."""
