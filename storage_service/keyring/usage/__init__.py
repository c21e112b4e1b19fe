"""What is under which key: the key usage index, re-encryption, and the end of keys."""
