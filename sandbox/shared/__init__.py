"""What all three processes need: frames, limits, outcomes, the user's entry. All packages may import it."""
