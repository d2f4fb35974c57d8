"""A prototype: one mount served by several client processes, and what that brings.

See docs/decisions/0012-many-cores.md. It is no part of the product: it does not pass tests/mount.
"""
