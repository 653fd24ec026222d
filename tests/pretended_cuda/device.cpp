// A CUDA device that is memory of the host. Every operator that has a kernel for CUDA gets the CPU's
// in its place; tensors keep the device cuda:0, and the rules about which tensors may meet hold.
// Counted on the way: launches, what makes the host wait, and bytes that are held.
//
// Built by device.py against the headers of a CUDA build of PyTorch; needs no CUDA toolkit.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace {

using c10::IValue;
using Names = std::set<std::string>;

const c10::Device kCuda(c10::DeviceType::CUDA, 0);
const c10::Device kCpu(c10::DeviceType::CPU);

// One device, one stream, no events: work is done when a call returns.
struct OneStream final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return kCuda; }
  c10::Device getDevice() const override { return kCuda; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream stream() const { return c10::Stream(c10::Stream::DEFAULT, kCuda); }
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

// What autograd and autocast ask before they touch the device; the real answers come from the driver.
struct Answers final : at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  bool hasCuDNN() const override { return false; }
  long versionCuDNN() const override { return 0; }
  long versionRuntimeCuDNN() const override { return 0; }
};

using OnWait = void (*)(const char* reason, const char* name);
OnWait on_wait = nullptr;
std::mutex mutex;
std::map<std::string, long> launches;
long held_bytes = 0, peak_bytes = 0;

void waits(const char* reason, const std::string& name) {
  if (on_wait) on_wait(reason, name.c_str());
}

void hold(long bytes) {
  std::lock_guard<std::mutex> guard(mutex);
  held_bytes += bytes;
  peak_bytes = std::max(peak_bytes, held_bytes);
}

// The same memory, seen as a tensor of the host.
at::Tensor on_host(const at::Tensor& t) {
  if (!t.defined() || !t.is_cuda()) return t;
  if (t.numel() == 0) return at::empty(t.sizes(), t.options().device(kCpu));  // it may have to grow
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), [t](void*) {}, t.options().device(kCpu));
}

// Storage of the device over the memory of a host tensor, which stays alive with it.
c10::Storage device_storage(const at::Tensor& t) {
  struct Kept {
    at::Tensor tensor;
    long bytes;
  };
  const long rounded = ((long)t.storage().nbytes() + 511) / 512 * 512;  // as the real allocator does
  hold(rounded);
  c10::DataPtr data(t.storage().mutable_data(), new Kept{t, rounded}, [](void* context) {
    auto* kept = static_cast<Kept*>(context);
    hold(-kept->bytes);
    delete kept;
  }, kCuda);
  return c10::Storage(c10::Storage::use_byte_size_t(), t.storage().nbytes(), std::move(data), nullptr, false);
}

at::Tensor on_device(const at::Tensor& t) {
  if (!t.defined() || t.is_cuda()) return t;
  auto out = at::detail::make_tensor<c10::TensorImpl>(
      device_storage(t), c10::DispatchKeySet(c10::DispatchKey::CUDA), t.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  return out;
}

IValue map_tensors(const IValue& v, at::Tensor (*f)(const at::Tensor&)) {
  if (v.isTensor()) return f(v.toTensor());
  if (v.isTensorList()) {
    c10::List<at::Tensor> out;
    for (const at::Tensor& t : v.toTensorVector()) out.push_back(f(t));
    return out;
  }
  if (v.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> out;
    for (std::optional<at::Tensor> t : v.toOptionalTensorList()) {
      if (t.has_value() && t->defined()) t = f(*t);
      out.push_back(t);
    }
    return out;
  }
  return v;
}

std::vector<at::Tensor> tensors_of(const IValue& v) {
  if (v.isTensor()) return {v.toTensor()};
  if (v.isTensorList()) return v.toTensorVector();
  std::vector<at::Tensor> out;
  if (v.isOptionalTensorList())
    for (std::optional<at::Tensor> t : v.toOptionalTensorList()) out.push_back(t ? *t : at::Tensor());
  return out;
}

bool is_indexing(const std::string& name) {
  return name == "aten::index" || name == "aten::_index_put_impl_" || name == "aten::_unsafe_index";
}

// Host and device meet in scalars and indices only, as on a real device. Indices are copied over.
void check_devices(const std::string& name, const std::vector<IValue>& given) {
  bool any = false;
  for (const auto& v : given)
    for (const auto& t : tensors_of(v)) any |= t.defined() && t.is_cuda();
  if (!any) return;
  for (size_t i = 0; i < given.size(); ++i)
    for (const auto& t : tensors_of(given[i])) {
      if (!t.defined() || t.is_cuda()) continue;
      if (is_indexing(name) && i == 1) {
        TORCH_CHECK(given[0].toTensor().is_cuda(), name, ": indices on cuda, tensor on cpu");
        waits("an index is copied to the device", name);
      } else if (t.dim() == 0 && name.find("_fused_") == std::string::npos) {
        // torch 2.11 copies a number that is written by an index and waits; later ones do not.
        if (is_indexing(name)) waits("a number is copied to the device", name);
      } else {
        TORCH_CHECK(false, name, ": all tensors must be on one device, found cuda:0 and cpu (argument ", i,
                    " of shape ", t.sizes(), ")");
      }
    }
}

// Operators that must know a value before they can go on.
void note_waits(const std::string& name, const std::vector<IValue>& given) {
  static const Names sized = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
      "aten::unique_consecutive", "aten::bincount", "aten::equal", "aten::histc"};
  if (name == "aten::_local_scalar_dense") waits("a number is read", name);
  if (sized.count(name)) waits("a size depends on values", name);
  if (name == "aten::repeat_interleave" && given.size() > 1 && given[1].isNone())
    waits("a size depends on values", name);
  const bool puts = name == "aten::_index_put_impl_";
  if (name != "aten::index" && !puts) return;
  // One number under one mask is a masked fill: no size is needed.
  const bool fills = puts && given[2].toTensor().numel() == 1 && !given[2].toTensor().is_cuda();
  for (const auto& t : tensors_of(given[1]))
    if (t.defined() && !fills && (t.scalar_type() == at::kBool || t.scalar_type() == at::kByte))
      waits("a mask becomes a size", name);
}

void copy(std::vector<IValue>& given) {
  const auto self = given[0].toTensor(), source = given[1].toTensor();
  const bool pending = given[2].toBool();
  // From pageable memory: without `non_blocking`, PyTorch waits for the stream. With it, CUDA has
  // taken the bytes when the call returns, and nothing waits.
  if (self.is_cuda() && !source.is_cuda() && !pending) waits("a copy to the device", "aten::copy_");
  if (!self.is_cuda() && source.is_cuda()) waits("a copy to the host", "aten::copy_");
  at::Tensor out = on_host(self);
  out.copy_(on_host(source));
}

// Half precision is slow on a CPU: multiplied in float32, and rounded once.
std::optional<at::ScalarType> widen(const c10::FunctionSchema& schema, std::vector<IValue>& host) {
  static const Names products = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_softmax"};
  if (!products.count(schema.name()) || schema.overload_name().find("out") != std::string::npos)
    return std::nullopt;
  std::optional<at::ScalarType> narrow;
  for (auto& v : host) {
    if (!v.isTensor()) continue;
    const auto type = v.toTensor().scalar_type();
    if (type != at::kBFloat16 && type != at::kHalf) continue;
    narrow = type;
    v = v.toTensor().to(at::kFloat);
  }
  return narrow;
}

// An operator may give what it writes to another size, and with it other memory.
void write_back(const c10::FunctionSchema& schema, const std::vector<IValue>& given, const std::vector<IValue>& host) {
  for (size_t i = 0; i < given.size(); ++i) {
    const auto* alias = schema.arguments()[i].alias_info();
    if (!alias || !alias->isWrite()) continue;
    const auto before = tensors_of(given[i]), after = tensors_of(host[i]);
    for (size_t j = 0; j < before.size(); ++j) {
      const auto &b = before[j], &a = after[j];
      if (!b.defined() || !b.is_cuda()) continue;
      const bool same_memory = a.numel() == 0 || b.data_ptr() == a.data_ptr();
      if (same_memory && b.sizes() == a.sizes() && b.strides() == a.strides()) continue;
      auto* impl = b.unsafeGetTensorImpl();
      impl->set_storage_keep_dtype(device_storage(a));
      impl->set_sizes_and_strides(a.sizes(), a.strides(), a.storage_offset());
    }
  }
}

// The kernel of all operators: arguments to the host, the CPU's kernel, results to the device.
void by_the_host(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string name = schema.name();
  const size_t n = schema.arguments().size();
  std::vector<IValue> given(stack->end() - n, stack->end());
  torch::jit::drop(*stack, n);
  {
    std::lock_guard<std::mutex> guard(mutex);
    ++launches[name];
  }
  if (name == "aten::copy_") {
    copy(given);
    stack->push_back(given[0]);
    return;
  }
  check_devices(name, given);
  note_waits(name, given);
  std::vector<IValue> host;
  for (const auto& v : given) {
    IValue one = map_tensors(v, on_host);
    host.push_back(one.isDevice() && one.toDevice().is_cuda() ? IValue(kCpu) : one);
  }
  if (name == "aten::mm" && schema.overload_name() == "dtype") {  // the CPU has no such product
    const auto type = given[2].toScalarType();
    stack->emplace_back(on_device(at::mm(host[0].toTensor().to(type), host[1].toTensor().to(type))));
    return;
  }
  const auto narrow = widen(schema, host);
  for (const auto& v : host) stack->push_back(v);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  write_back(schema, given, host);
  const size_t n_results = schema.returns().size();
  std::vector<IValue> results(stack->end() - n_results, stack->end());
  torch::jit::drop(*stack, n_results);
  for (size_t r = 0; r < n_results; ++r) {
    const auto* alias = schema.returns()[r].alias_info();
    std::optional<IValue> out;
    if (alias && alias->isWrite())  // the result is an argument: the same tensor comes back
      for (size_t i = 0; i < n; ++i) {
        const auto* from = schema.arguments()[i].alias_info();
        if (from && from->isWrite() && *from == *alias) out = given[i];
      }
    if (narrow && results[r].isTensor()) results[r] = results[r].toTensor().to(*narrow);
    stack->push_back(out ? *out : map_tensors(results[r], on_device));
  }
}

std::vector<c10::RegistrationHandleRAII>* registered = nullptr;

}  // namespace

extern "C" {

// Returns the number of operators whose kernel was replaced. There is no way back in this process.
int pretend_start(OnWait told) {
  on_wait = told;
  c10::impl::device_guard_impl_registry[(size_t)c10::DeviceType::CUDA].store(new OneStream());
  static Answers answers;  // the object exists already: only what it answers with is exchanged
  *reinterpret_cast<void**>(const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks())) =
      *reinterpret_cast<void**>(&answers);
  static const Names views = {"aten::as_strided", "aten::view", "aten::_reshape_alias", "aten::unfold",
      "aten::set_", "aten::view_as_real", "aten::view_as_complex", "aten::is_set_to"};
  registered = new std::vector<c10::RegistrationHandleRAII>();
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findSchema(name);
    if (!op || views.count(name.name)) continue;
    if (name.name != "aten::copy_" && !op->hasKernelForDispatchKey(c10::DispatchKey::CUDA)) continue;
    registered->push_back(dispatcher.registerImpl(name, c10::DispatchKey::CUDA,
        c10::KernelFunction::makeFromBoxedFunction<&by_the_host>(), std::nullopt, nullptr, "pretended"));
  }
  return (int)registered->size();
}

void pretend_reset() {
  std::lock_guard<std::mutex> guard(mutex);
  launches.clear();
  peak_bytes = held_bytes;
}

long pretend_peak() { return peak_bytes; }
long pretend_held() { return held_bytes; }

// "operator times" a line.
const char* pretend_launches() {
  static std::string text;
  std::lock_guard<std::mutex> guard(mutex);
  text.clear();
  for (const auto& [name, times] : launches) text += name + " " + std::to_string(times) + "\n";
  return text.c_str();
}

}  // extern "C"
