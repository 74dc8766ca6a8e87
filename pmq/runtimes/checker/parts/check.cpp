// Check that a deployed file computes on this device what was simulated: ./check [FILE]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "load.hpp" // struct Runtime: Runtime(content, threads); run(bytes, shape, uint8) -> values by name

struct Row { size_t count, stride; double limit; std::string name; };

static std::string bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) { std::fprintf(stderr, "cannot read %s\n", path.c_str()); std::exit(2); }
  return {std::istreambuf_iterator<char>(file), {}};
}

int main(int argc, char** argv) {
  const std::string program = argv[0], here = program.substr(0, program.find_last_of('/') + 1);
  std::istringstream text(bytes(here + "bundle.txt"));
  std::string line, file, kind;
  std::vector<int64_t> shape;
  std::vector<Row> rows;
  size_t n_images = 0, size = 1;
  int threads = 1;
  while (std::getline(text, line)) {
    std::istringstream words(line);
    std::string key;
    words >> key;
    if (key == "file") std::getline(words >> std::ws, file);
    if (key == "threads") words >> threads;
    if (key == "images") words >> n_images;
    if (key == "input") { words >> kind; for (int64_t side; words >> side; size *= side) shape.push_back(side); }
    if (key == "tensor") { Row row; words >> row.count >> row.stride >> row.limit; std::getline(words >> std::ws, row.name); rows.push_back(row); }
  }
  file = argc > 1 ? argv[1] : here + "../" + file;
  const bool uint8 = kind == "uint8";
  const std::string content = bytes(file), images = bytes(here + "inputs.bin"), data = bytes(here + "expected.bin");
  std::vector<float> expected(data.size() / sizeof(float));
  std::memcpy(expected.data(), data.data(), data.size());
  const size_t step = size * (uint8 ? 1 : sizeof(float));

  Runtime probed(content + bytes(here + "probes.bin"), threads);
  std::vector<Tensors> computed;
  for (size_t i = 0; i < n_images; i++) computed.push_back(probed.run(images.substr(i * step, step), shape, uint8));
  size_t same = 0, start = 0;
  std::string first;
  for (const Row& row : rows) {
    double error = 0;
    same = 0; // of the last tensor, which is the model's output
    for (size_t i = 0; i < n_images; i++, start += row.count) {
      const float *target = &expected[start], *actual = computed[i].at(row.name).data();
      double norm = 0, off = 0;
      size_t best = 0, wanted = 0;
      for (size_t j = 0; j < row.count; j++) {
        norm += double(target[j]) * target[j];
        off += std::pow(double(actual[j * row.stride]) - target[j], 2);
        if (actual[j * row.stride] > actual[best * row.stride]) best = j;
        if (target[j] > target[wanted]) wanted = j;
      }
      const double relative = std::sqrt(off) / std::max(std::sqrt(norm), 1e-12);
      error = relative <= error ? error : relative; // also where it is not a number
      same += best == wanted;
    }
    if (!(error <= row.limit) && first.empty()) {
      char buffer[128];
      std::snprintf(buffer, sizeof buffer, ": relative error %.4f, at most %.4f expected", error, row.limit);
      first = row.name + buffer;
    }
  }
  Runtime timed(content, threads);
  std::vector<double> times;
  for (int i = 0; i < 30; i++) {
    const auto begin = std::chrono::steady_clock::now();
    timed.run(images.substr(0, step), shape, uint8);
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  std::printf("file: %s\nsame decision as the simulation: %zu of %zu images\n", file.c_str(), same, n_images);
  std::printf("first tensor that differs: %s\n", first.empty() ? ("none of " + std::to_string(rows.size())).c_str() : first.c_str());
  std::printf("latency: %.3f ms, %d thread(s)\n", times[15], threads);
  return first.empty() ? 0 : 1;
}
