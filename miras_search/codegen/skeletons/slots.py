"""Flags and functions that a design fills in. The values here are those of a delta-like matrix memory with an l2 bias, in
frozen chunks, so that the skeletons run as they stand."""

import torch
from torch import Tensor

CHUNK = 16
"""Tokens for which the gradient is frozen; for designs without chunks, the tile of the parallel form."""
CHUNKED = True
"""Chunk boundaries matter to the result."""
TRITON = False
"""There are kernels for this design."""
DERIVED = True
"""The backward of a chunk is written out for this design."""
STEPPED = True
"""Single tokens take a path of their own."""
TILED = False
"""The writes of a tile are affine in the state at its start, so that many tiles are taken together."""
TILE = 131072
"""Numbers in the largest activation of a group of rows: what stays in a core's cache."""

LAYERS = 1
INPUTS = 1
"""How many of the weights, the first ones, are applied to the input itself; of two the outputs are multiplied."""
DIAGONAL = False
"""The weight is one number a channel, a row `[1, dim]`."""
NORM = False
RESIDUAL = False
OFFSET = False
EXPANSION = 4
ACTIVATION = "gelu"
"""The activation by torch's name, if torch has it in one operation; else empty."""
CACHE = False
WINDOW = 0
"""Tokens a cache answers from; 0: all."""

STATE_FREE = False
SPAN = 1
"""Tokens whose losses are summed."""
SHIFTED = False
"""What is written under k is v - k."""
FEATURES = "identity"
THRESHOLDED = False
DELTA_START = 1.0
"""Threshold at initialisation; multiplied by sqrt(dim) if DELTA_NORM."""
DELTA_NORM = False
THRESHOLD = "none"
"""`data`: predicted for every token; `learned`: one a head; `fixed`."""

GATE = "none"
"""The shape of alpha: `none`, `scalar`, `channel` (key channels), `row` (value channels) or `outer` (both)."""
DECAY = "data"
"""`data`: predicted for every token; `learned`: one a head or channel; `constant`: by SCHEDULE."""
SCHEDULE = "retnet"
MIRROR = False
SHARING = False
"""psi is a number times shares that sum to 1."""
SCALING = False
FEEDBACK = False
MULTIPLICATIVE = False
LEARNED_START = False
ALPHA_START = 4.0

MOMENTUM = False
MU_START = 0.0
ONLINE = False
DECAY_FIRST = False
DECOUPLED = False
ERASE_CHANNELS = False
IMPLICIT = False
STEPS = 1
"""Online steps a token."""
LEAST_SQUARES = False
RIDGE_START = 1.0
ORTHOGONAL = False
ASCENT = False
LAST_ONLY = False
READ = "exact"
READ_FIRST = False
SCAN = False
"""Reads need the weights of every token: exact reads of a nonlinear map."""
STEP = 1.0
STEP_GATED = True
STEP_TIED = False
"""eta is the step times -log alpha."""
KEY_TIED = False
"""The key is 1 - alpha, and not projected."""
REACH = 2.0

CONV = 4
QK_NORM = True
ROPE = False
OUTPUT_GATE = True
ZEROED = False
SHUFFLED = False


def bias_phi(r: Tensor, v: Tensor, delta: Tensor) -> Tensor:
    """The bias's cotangent."""
    return r


def bias_phi_vjp(r: Tensor, v: Tensor, delta: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Its pull-back to r, to v at fixed r, and to delta."""
    return d, torch.zeros_like(r), torch.zeros_like(delta)


def memory_activate(z: Tensor) -> Tensor:
    """The activation between the memory's layers."""
    return torch.nn.functional.gelu(z)


def memory_activate_grad(z: Tensor) -> Tensor:
    """Its derivative."""
    return 0.5 * (1.0 + torch.erf(z * 0.7071067811865476)) + z * 0.3989422804014327 * torch.exp(-0.5 * z * z)


def memory_activate_curve(z: Tensor) -> Tensor:
    """Its second derivative."""
    return 0.3989422804014327 * torch.exp(-0.5 * z * z) * (2.0 - z * z)


def retention_psi(s: Tensor) -> Tensor:
    """The mirror map."""
    return s


def retention_psi_vjp(s: Tensor, d: Tensor) -> Tensor:
    """Its pull-back."""
    return d


def retention_scale(s: Tensor) -> Tensor:
    """The number by which a scaling map multiplies the state."""
    return torch.ones_like(s[..., :1, :1])


def retention_power_sum(s: Tensor) -> Tensor:
    """The sum over a matrix that this number is a function of."""
    return torch.ones_like(s[..., :1, :1])


def retention_scale_of(p: Tensor) -> Tensor:
    """The function."""
    return p


def retention_scale_vjp(s: Tensor, p: Tensor, d: Tensor) -> Tensor:
    """The number's pull-back, the sum given."""
    return torch.zeros_like(s)


def retention_mass(s: Tensor) -> float:
    """What the shares of a sharing map are multiplied by."""
    return 1.0


def retention_share(s: Tensor) -> Tensor:
    """Its shares."""
    return s


def retention_share_vjp(p: Tensor, d: Tensor) -> Tensor:
    """Their pull-back, by the shares themselves."""
    return d


def retention_feedback(s: Tensor) -> Tensor:
    """What the state becomes before it decays."""
    return s


def retention_update(s: Tensor, alpha: Tensor, write: Tensor) -> Tensor:
    """The next state of a multiplicative gate."""
    return alpha * s - write


def retention_initial(z: Tensor) -> Tensor:
    """The learned initial state from a standard normal."""
    return z / torch.tensor(z.shape[-1], dtype=z.dtype).sqrt()
