"""Shapes and dtypes written in signatures are checked on every call made by the tests."""

from jaxtyping import install_import_hook

install_import_hook("dne_lib", "beartype.beartype")
