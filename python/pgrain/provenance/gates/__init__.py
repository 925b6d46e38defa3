"""Gates: the layers that a network of provenance is made of, one family a file (numpy).

A `network.Network` evaluates its layers in order over flat vectors of probabilities and numbers,
on classes (hard: exactly what SQL says) or on probabilities (relaxed: expectations), and takes
gradients of the latter in reverse.
"""

from pgrain.provenance.gates.any_of import AnyOf
from pgrain.provenance.gates.arithmetic import Arithmetic
from pgrain.provenance.gates.events import Events
from pgrain.provenance.gates.extreme import Extreme
from pgrain.provenance.gates.first import First
from pgrain.provenance.gates.network import Gradient, Layer, Network, State
from pgrain.provenance.gates.proba_step import ProbaStep
from pgrain.provenance.gates.sums import Sums
from pgrain.provenance.gates.threshold import Threshold

__all__ = ["AnyOf", "Arithmetic", "Events", "Extreme", "First", "Gradient", "Layer", "Network",
           "ProbaStep", "State", "Sums", "Threshold"]
