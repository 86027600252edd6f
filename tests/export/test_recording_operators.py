"""What codecs are made of, beside torch and ONNX Runtime: memories, mirrors, and rows of tables."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn

from precast.export.operators import lstm, nearest, reflected
from precast.export.trace import trace
from precast.runtime.ports import Dim


def test_a_tie_is_no_answer_in_float64() -> None:
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
    x = torch.tensor([[[0.7, 0.6], [0.500001, 0.5], [0.4, 0.4], [torch.nan, 0.0]]], dtype=torch.float64)
    codes, rest = nearest(x, table)
    assert codes.tolist() == [[0, -1, -1, -1]]
    assert torch.equal(rest[0, 0], x[0, 0] - table[0]) and rest[0, 1:].isnan().all()
    narrow, left = nearest(x[:, :3].float(), table.float())
    assert narrow[0, :2].tolist() == [0, 0] and left.isfinite().all()


class _Parts(nn.Module):
    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.memory = nn.LSTM(size, size)
        gates = [0, 3, 1, 2]  # as ONNX has them
        self.turned = [
            torch.cat([made.unflatten(0, (4, -1))[gates].flatten(0, 1) for made in some])[None].detach()
            for some in (
                (self.memory.weight_ih_l0,),
                (self.memory.weight_hh_l0,),
                (self.memory.bias_ih_l0, self.memory.bias_hh_l0),
            )
        ]
        self.table = nn.Parameter(torch.randn(30, size))

    def forward(self, input_values: Tensor) -> dict[str, Tensor]:
        rows = reflected(input_values, 3, 1, 4)
        states = lstm(rows.permute(2, 0, 1), *self.turned)
        codes, rest = nearest(states.transpose(0, 1), self.table)
        return {"rows": rows, "states": states, "codes": codes, "rest": rest}


def test_what_codecs_are_made_of() -> None:
    torch.manual_seed(0)
    parts, names = _Parts(), ("rows", "states", "codes", "rest")
    dynamic = {"input_values": {0: "batch", 2: "samples"}}
    graph = trace(parts, {"input_values": torch.zeros(2, 8, 50)}, dynamic, names, "parts", {"samples": Dim(6)})
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    for length in (6, 7, 8, 41):
        x = torch.randn(3, 8, length)
        with torch.no_grad():
            eager = parts(x)
            whole = nn.functional.pad(x, (3, 1 + -length % 4), mode="reflect")
            expected = parts.memory(whole.permute(2, 0, 1))[0]
        assert torch.equal(eager["rows"], whole)
        torch.testing.assert_close(eager["states"], expected, rtol=0, atol=1e-6)
        for name, found in zip(names, session.run(None, {"input_values": x.numpy()}), strict=True):
            np.testing.assert_allclose(found, eager[name].numpy(), rtol=0, atol=1e-6, err_msg=name)
