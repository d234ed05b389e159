from .camera import project as project
from .camera import ridge_camera as ridge_camera
from .config import Config as Config
from .config import preset as preset
from .data.interhand import InterHand as InterHand
from .files import InputError as InputError
from .losses import total_loss as total_loss
from .mano import HandModel as HandModel
from .model import DualNoiseNetwork as DualNoiseNetwork
from .synthetic.synthesize import synthesize as synthesize
from .weights import load_network as load_network
from .weights import load_pretrained as load_pretrained

__version__: str
