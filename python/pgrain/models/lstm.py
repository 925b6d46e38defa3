"""A long short-term memory network over words, for text (Hochreiter and Schmidhuber 1997).

One layer; a text's vector is the state after its last word. With `vocabulary` 10 000, `embedding`
300 and `units` 200 it has 3.4 M parameters, the size in the paper; the defaults are for a CPU.

Three choices for influence and speed:
1. The inputs' part of all gates is one matrix product over all words before the loop, so that the
   loop holds only what depends on the state.
2. Padding leaves the state as it is (it is masked, not learned), so a text's logits do not depend
   on how far its batch was padded.
3. No dropout: training and inference compute the same function.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgrain.errors import InvalidArgument
from pgrain.models.options import Option

INPUT = "tokens"
OPTIONS = {option.name: option for option in (
    Option("embedding", "integer", "numbers that stand for a word", 1, 4096),
    Option("units", "integer", "size of the state", 1, 4096),
)}
DEFAULTS = {"embedding": 64, "units": 64}


class LSTM(nn.Module):
    """tokens (N, L) int32, 0 where there is no word -> logits (N, R)."""

    n_classes: int
    n_tokens: int
    embedding: int = 64
    units: int = 64

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        units = self.units
        words = nn.Embed(self.n_tokens, self.embedding, name="words",
                         embedding_init=nn.initializers.normal(0.1))(tokens)
        # Gates in the order input, forget, new, output; the forget gate starts open.
        gates = nn.Dense(4 * units, name="inputs", bias_init=_open_forget_gate)(words)
        recurrent = self.param("recurrent", nn.initializers.orthogonal(), (units, 4 * units))

        def step(state, at):
            hidden, cell = state
            gate, present = at
            i, f, g, o = jnp.split(gate + hidden @ recurrent, 4, axis=-1)
            new_cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
            new_hidden = nn.sigmoid(o) * jnp.tanh(new_cell)
            return (jnp.where(present, new_hidden, hidden),
                    jnp.where(present, new_cell, cell)), None

        start = jnp.zeros((len(tokens), units), gates.dtype)
        present = (tokens != 0).T[:, :, None]
        (hidden, _), _ = jax.lax.scan(step, (start, start),
                                      (jnp.swapaxes(gates, 0, 1), present))
        return nn.Dense(self.n_classes, name="output")(hidden)


def _open_forget_gate(key, shape, dtype=jnp.float32):
    """Biases 1 for the forget gate, 0 for the others (Jozefowicz et al. 2015)."""
    units = shape[0] // 4
    return jnp.zeros(shape, dtype).at[units: 2 * units].set(1)


def module(n_classes: int, input_shape: tuple[int, ...], options: dict) -> nn.Module:
    """The Flax module; 22023 unless the input is a sequence of words."""
    if not options.get("n_tokens"):
        raise InvalidArgument('architecture "lstm" needs text',
                              hint="Its features are one column of type text; for others use "
                                   '"logistic_regression" or "mlp".')
    return LSTM(n_classes, options["n_tokens"], options["embedding"], options["units"])
