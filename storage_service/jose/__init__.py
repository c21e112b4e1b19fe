"""JOSE, without any key of ours: those who encrypt for themselves (a client, a migration, a vault) need nothing else.

key                 512 secret bits and the id that they are known by
jwe                 the one form of an encrypted value: a compact JWE that opens under its own name alone
to_public_key       a compact JWE to somebody's public key, RSA or EC
jws                 a compact JWS under HS256, for tokens
content_encryption  the primitives under it, AES in CBC mode and HMAC
base64url, jwk      the strict spelling of bytes, and of keys
"""
