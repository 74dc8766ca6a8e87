// Load a file into onnxruntime.
#pragma once
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

using Tensors = std::map<std::string, std::vector<float>>;

class Runtime {
 public:
  Runtime(const std::string& content, int threads) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(threads);
    session_ = Ort::Session(env_, content.data(), content.size(), options);
    Ort::AllocatorWithDefaultOptions allocator;
    image_ = session_.GetInputNameAllocated(0, allocator).get();
    for (size_t i = 0; i < session_.GetOutputCount(); i++) names_.push_back(session_.GetOutputNameAllocated(i, allocator).get());
  }

  Tensors run(std::string bytes, const std::vector<int64_t>& shape, bool uint8) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto kind = uint8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const auto input = Ort::Value::CreateTensor(memory, bytes.data(), bytes.size(), shape.data(), shape.size(), kind);
    const char* image = image_.c_str();
    std::vector<const char*> names;
    for (const auto& name : names_) names.push_back(name.c_str());
    auto outputs = session_.Run(Ort::RunOptions{nullptr}, &image, &input, 1, names.data(), names.size());
    Tensors tensors;
    for (size_t i = 0; i < names.size(); i++) {
      const float* data = outputs[i].GetTensorData<float>();
      tensors[names_[i]].assign(data, data + outputs[i].GetTensorTypeAndShapeInfo().GetElementCount());
    }
    return tensors;
  }

 private:
  Ort::Env env_;
  Ort::Session session_{nullptr};
  std::string image_;
  std::vector<std::string> names_;
};
