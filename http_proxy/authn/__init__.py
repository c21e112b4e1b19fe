"""Ways of knowing a caller, one file each."""
