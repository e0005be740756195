"""Videos, read and written with PyAV.

Frames are uint8 RGB arrays, (H, W, 3) or stacked (T, H, W, 3).
"""

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
