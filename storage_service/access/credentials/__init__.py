"""What a principal proves itself with: a file a kind, and `registry`, the table of them.

A kind is a module with three functions: ``canonical`` makes of what was given the one spelling that is kept,
``identity`` tells what no two credentials may have in common, and ``shown`` what may be told of one.
"""
