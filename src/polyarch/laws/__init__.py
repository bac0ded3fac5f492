"""Laws: published numbers and exact values that the architectures must reproduce, one file a family.

Discovered, never listed: every ``Law`` in a module of this package, or in one that another distribution
names under the entry point ``polyarch.laws``.  A module's ``ABSENT`` says which it does not have, and why.
"""
