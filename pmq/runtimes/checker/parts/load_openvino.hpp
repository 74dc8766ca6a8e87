// Load a file into OpenVINO.
#pragma once
#include <openvino/openvino.hpp>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

constexpr auto PRECISION = ov::element::Type_t::f32;
using Tensors = std::map<std::string, std::vector<float>>;

class Runtime {
 public:
  Runtime(const std::string& content, int threads) {
    const char* path = "check.tmp.onnx"; // OpenVINO reads ONNX from files
    std::ofstream(path, std::ios::binary) << content;
    model_ = core_.compile_model(path, "CPU", ov::hint::inference_precision(PRECISION), ov::inference_num_threads(threads),
                                 ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                 ov::hint::dynamic_quantization_group_size(0));
    std::remove(path);
    request_ = model_.create_infer_request();
  }

  Tensors run(const std::string& bytes, const std::vector<int64_t>& shape, bool uint8) {
    ov::Tensor image(uint8 ? ov::element::u8 : ov::element::f32, ov::Shape(shape.begin(), shape.end()));
    std::memcpy(image.data(), bytes.data(), bytes.size());
    request_.set_input_tensor(image);
    request_.infer();
    Tensors tensors;
    for (size_t i = 0; i < model_.outputs().size(); i++) {
      const auto output = request_.get_output_tensor(i);
      tensors[model_.output(i).get_any_name()].assign(output.data<float>(), output.data<float>() + output.get_size());
    }
    return tensors;
  }

 private:
  ov::Core core_;
  ov::CompiledModel model_;
  ov::InferRequest request_;
};
