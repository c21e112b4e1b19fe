"""The record of who did what: one line an act, on disk before the answer leaves."""
