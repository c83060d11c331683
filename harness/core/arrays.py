"""The type of the arrays that the mathematics works on."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
