"""What can be done to the keyring as a whole: begun, rotated, given to others, exported, restored."""
