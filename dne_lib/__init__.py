"""Monocular 3D hand mesh recovery via dual noise estimation.

The commands have a function each, to be imported from its module: `dne_lib.train.train`,
`dne_lib.evaluate.report`, `dne_lib.predict.predict`, `dne_lib.uncertainty.calibrate`,
`dne_lib.ablate.ablate`, `dne_lib.check.check_data`, `dne_lib.data.shards.export`, and `synthesize`
here. From a photograph to meshes:

    from pathlib import Path

    from dne_lib import load_network
    from dne_lib.predict import predict, save

    found = predict(*load_network("shipped-varied"), "photo.jpg")
    save(found, Path("predictions/photo"))
"""

import lazy_loader

__version__ = "0.1.0"

# A name is imported when it is asked for (the stub beside says whence): torch takes seconds, and
# `dne --help` needs none.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
