"""The paper's evaluation (its section 6), reproduced: `make paper` writes docs/paper.md."""
