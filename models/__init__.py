"""What is kept: the records of a platform, their validation and their names. No I/O, no crypto, no clock."""
