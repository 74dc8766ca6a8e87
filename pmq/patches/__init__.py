"""Patch-wise reallocation: bits of single tokens under an allocation (PMQ, arXiv 2305.06559)."""

from pmq.patches.allocate import settle, solve
from pmq.patches.sensitivity import TokenErrors, token_errors
from pmq.patches.tokens import Patchable, attends_globally, patchable

__all__ = ["Patchable", "TokenErrors", "attends_globally", "patchable", "settle", "solve", "token_errors"]
