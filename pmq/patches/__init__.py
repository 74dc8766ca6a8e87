"""Patch-wise reallocation: bits of single tokens under an allocation (PMQ, arXiv 2305.06559)."""

from pmq.patches.allocate import settle, solve
from pmq.patches.sensitivity import TokenErrors, token_errors
from pmq.patches.skipping import choose_left_out
from pmq.patches.tokens import BITS, Patchable, attends_globally, patchable

__all__ = [
    "BITS",
    "Patchable",
    "TokenErrors",
    "attends_globally",
    "choose_left_out",
    "patchable",
    "settle",
    "solve",
    "token_errors",
]
