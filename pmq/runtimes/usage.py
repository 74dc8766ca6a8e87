"""Examples of how a deployed file is loaded and run, for the languages of its runtime: the text of ``deployment.md``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pmq.runtimes.labels import Preprocess


@dataclass(frozen=True)
class Example:
    """What examples need to know of a file.

    Attributes:
        file: its name.
        shape: shape of its input, ``(1, C, H, W)`` or ``(1, H, W, C)``.
        uint8: whether it takes pixel values instead of prepared ones.
        threads: threads with which it was timed.
        preprocess: preparation of pictures; None if the file states none.
    """

    file: str
    shape: tuple[int, ...]
    uint8: bool
    threads: int
    preprocess: Preprocess | None


def usage(target: str, example: Example) -> str:
    """Return the Markdown text with an example for each language in which the runtime of ``target`` can be used."""
    heading = f"# {example.file}\n\nIt takes {_input_text(example)} and returns `(1, outputs)` float32.\n"
    parts = [f"## {name}\n\n```{language}\n{code(example)}```\n" for name, language, code in EXAMPLES[target]]
    return "\n".join([heading, *parts])


def _input_text(example: Example) -> str:
    kind = "pixel values 0 to 255 as uint8" if example.uint8 else "prepared values as float32"
    return f"one image `{example.shape}` of {kind}"


def _picture(example: Example) -> str:
    """Return Python lines that prepare the picture ``image.jpg`` as ``x``, or leave that to the reader."""
    p, kind = example.preprocess, "np.uint8" if example.uint8 else "np.float32"
    channels, height, width = p.input_size if p is not None else (0, 0, 0)
    if p is None or channels not in (1, 3) or height != width or p.crop_mode not in (None, "center"):
        return f"x = np.zeros({example.shape}, {kind})  # an image, prepared as for the model\n"
    lines = [
        f'picture = Image.open("image.jpg").convert("{"L" if channels == 1 else "RGB"}")',
        f"sides = [int({int(width / p.crop_pct)} * side / min(picture.size)) for side in picture.size]",
        f"picture = picture.resize(sides, Image.Resampling.{p.interpolation.upper()})",
        f"left, top = [round((side - {width}) / 2) for side in sides]",
        f"picture = picture.crop((left, top, left + {width}, top + {height}))",
        f"x = np.asarray(picture, {kind}).reshape(1, {height}, {width}, {channels})",
    ]
    if not example.uint8:
        lines.append(f"x = (x / np.float32(255) - np.array({list(p.mean)}, np.float32)) / np.array({list(p.std)}, np.float32)")
    if example.shape[1] == channels and p.layout == "nchw":
        lines.append("x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))")
    return "\n".join(lines) + "\n"


def _python(imports: str, run: str) -> Callable[[Example], str]:
    """Return the example in Python, given the lines that import the runtime and those that run the file."""

    def code(example: Example) -> str:
        picture = _picture(example)
        pillow = "from PIL import Image\n" if "Image" in picture else ""
        body = run.format(file=example.file, threads=example.threads)
        return f"import numpy as np\n{imports}{pillow}\n{picture}{body}print(output[0].argmax(), output[0].max())\n"

    return code


ONNXRUNTIME_PYTHON = """\
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
output = session.run(None, {{session.get_inputs()[0].name: x}})[0]
"""
OPENVINO_PYTHON = """\
settings = {{"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": {threads}, "PERFORMANCE_HINT": "LATENCY"}}
model = openvino.Core().compile_model("{file}", "CPU", settings)
output = model([x])[0]
"""
LITERT_PYTHON = """\
model = Interpreter("{file}", num_threads={threads})
model.allocate_tensors()
model.set_tensor(model.get_input_details()[0]["index"], x)
model.invoke()
output = model.get_tensor(model.get_output_details()[0]["index"])
"""
EXECUTORCH_PYTHON = """\
method = Runtime.get().load_program("{file}").load_method("forward")
output = method.execute([torch.from_numpy(x)])[0].numpy()
"""


def _onnxruntime_cpp(example: Example) -> str:
    kind = "uint8_t" if example.uint8 else "float"
    sides = ", ".join(map(str, example.shape))
    count = " * ".join(map(str, example.shape))
    return f"""\
#include <onnxruntime_cxx_api.h>
#include <cstdio>
#include <vector>

int main() {{
  Ort::Env env;
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads({example.threads});
  Ort::Session session(env, "{example.file}", options);
  std::vector<{kind}> x({count});  // an image, prepared as for the model
  std::vector<int64_t> shape{{{sides}}};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto input = Ort::Value::CreateTensor<{kind}>(memory, x.data(), x.size(), shape.data(), shape.size());
  const char *inputs[] = {{"image"}}, *outputs[] = {{"output"}};
  auto output = session.Run(Ort::RunOptions{{}}, inputs, &input, 1, outputs, 1);
  std::printf("%f\\n", output[0].GetTensorData<float>()[0]);
}}
"""


def _onnxruntime_javascript(example: Example) -> str:
    array, kind = ("Uint8Array", "uint8") if example.uint8 else ("Float32Array", "float32")
    return f"""\
import * as ort from "onnxruntime-node"; // in a browser: "onnxruntime-web"

const session = await ort.InferenceSession.create("{example.file}");
const shape = {list(example.shape)};
const x = new {array}(shape.reduce((a, b) => a * b)); // an image, prepared as for the model
const {{ output }} = await session.run({{ image: new ort.Tensor("{kind}", x, shape) }});
console.log(output.data.indexOf(Math.max(...output.data)));
"""


def _openvino_cpp(example: Example) -> str:
    kind = "uint8_t" if example.uint8 else "float"
    return f"""\
#include <openvino/openvino.hpp>
#include <cstdio>

int main() {{
  ov::Core core;
  auto model = core.compile_model("{example.file}", "CPU", ov::hint::inference_precision(ov::element::f32),
                                  ov::inference_num_threads({example.threads}));
  auto request = model.create_infer_request();
  auto x = request.get_input_tensor().data<{kind}>();  // an image, prepared as for the model, is written here
  x[0] = 0;
  request.infer();
  std::printf("%f\\n", request.get_output_tensor().data<float>()[0]);
}}
"""


_OPENVINO = (("Python", "python", _python("import openvino\n", OPENVINO_PYTHON)), ("C++", "cpp", _openvino_cpp))
_LITERT = (("Python", "python", _python("from ai_edge_litert.interpreter import Interpreter\n", LITERT_PYTHON)),)
#: target -> heading, language of the code block and code of each example
EXAMPLES: Mapping[str, tuple[tuple[str, str, Callable[[Example], str]], ...]] = {
    "onnxruntime": (
        ("Python", "python", _python("import onnxruntime\n", ONNXRUNTIME_PYTHON)),
        ("C++", "cpp", _onnxruntime_cpp),
        ("JavaScript", "js", _onnxruntime_javascript),
    ),
    "qdq": (("Python", "python", _python("import onnxruntime\n", ONNXRUNTIME_PYTHON)), ("C++", "cpp", _onnxruntime_cpp)),
    "openvino": _OPENVINO,
    "openvino-bf16": (("Python", "python", _python("import openvino\n", OPENVINO_PYTHON.replace("f32", "bf16"))),),
    "litert": _LITERT,
    "litert-static": _LITERT,
    "executorch": (("Python", "python", _python("import torch\nfrom executorch.runtime import Runtime\n", EXECUTORCH_PYTHON)),),
}
