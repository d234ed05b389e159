"""Shapes and dtypes written in signatures are checked on every call made by the tests."""

import pytest
from jaxtyping import install_import_hook

install_import_hook("dne_lib", "beartype.beartype")


@pytest.fixture(scope="session")
def builtin_data(tmp_path_factory):
    """A small tree of the generator: 12 training and 4 test images."""
    from dne_lib.synthetic.synthesize import synthesize

    root = tmp_path_factory.mktemp("builtin") / "data"
    synthesize(root, train=12, test=4, seed=3, workers=1, progress=False)
    return root
