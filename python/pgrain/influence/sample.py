"""The rows whose loss makes the Hessian: `models.sample`, under the name that influence uses."""

from pgrain.models.sample import sample_rows

__all__ = ["sample_rows"]
