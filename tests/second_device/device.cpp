// A second device for PyTorch in the host's memory, with the numbers of the CPU; see __init__.py.
//
// Its tensors have storages of their own device type. An operator without a kernel here is run by
// the CPU's kernel on tensors that share these storages, and its results become tensors of the
// device. So every result is the CPU's, and everything that depends on the device of a tensor is
// as on a GPU: mixed devices are refused, and reading a value makes the host wait.

#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

using at::Tensor;
using c10::IValue;

constexpr auto kHere = c10::DeviceType::PrivateUse1;
constexpr int kDevices = 2;

thread_local c10::DeviceIndex current_device = 0;
std::atomic<int64_t> allocated{0};
std::atomic<int64_t> peak{0};
std::atomic<int64_t> launches{0};
std::atomic<bool> refuse_waiting{false};

// The host reads from the device: on a GPU it would wait until everything queued before is done.
void wait_for(const std::string& name) {
  TORCH_CHECK(!refuse_waiting, "called a synchronizing operation: ", name);
}

// ----------------------------------------------------------------------------------------- memory

struct Block {
  void* data;
  int64_t size;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  allocated -= block->size;
  std::free(block->data);
  delete block;
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    const int64_t rounded = (static_cast<int64_t>(size) + 63) / 64 * 64;
    auto* block = new Block{rounded ? std::aligned_alloc(64, rounded) : nullptr, rounded};
    allocated += rounded;
    if (allocated > peak) peak = allocated.load();
    return {block->data, block, &release, c10::Device(kHere, current_device)};
  }

  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
};

Memory memory;

// ------------------------------------------------------------------------- current device, and hooks

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kHere> {
  c10::Device getDevice() const override { return {kHere, current_device}; }
  void setDevice(c10::Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current_device = device.index();
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    uncheckedSetDevice(device);
    return before;
  }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device.has_index() ? device : getDevice());
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return getStream(stream.device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return current_device; }
  void setCurrentDevice(c10::DeviceIndex index) const override { current_device = index; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const auto before = current_device;
    if (index >= 0) current_device = index;
    return before;
  }
  // Where a copy that need not wait is sent. Here it is memory like any other.
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchangeDevice(index); }
};

// -------------------------------------------------------------- tensors of one side seen from the other

// Return `made` with the sizes of `t`.
Tensor like(const Tensor& t, Tensor made) {
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  if (t.is_conj()) impl->_set_conj(true);
  if (t.is_neg()) impl->_set_neg(true);
  return made;
}

Tensor make_tensor(c10::Storage storage, c10::DispatchKey key, const Tensor& t) {
  return like(t, at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), t.dtype()));
}

// A view has the dispatch keys of what it views. In inference mode a new tensor would have others.
Tensor make_view(const Tensor& of, const Tensor& t) {
  return like(t, at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(of.storage()), of.key_set(), t.dtype()));
}

// The arguments of one call, as the CPU's kernel sees them. Tensors that share a storage here share
// one there, so that views among the results are recognized.
class Arguments {
 public:
  Tensor to_host(const Tensor& t) {
    if (!t.defined() || t.device().type() != kHere) return t;
    if (!device_) device_ = t.device();
    for (const auto& [device_tensor, host_tensor] : tensors_) {
      if (device_tensor.is_same(t)) return host_tensor;
    }
    auto& storage = storages_[t.storage().unsafeGetStorageImpl()];
    if (!storage) {
      c10::DataPtr data(t.storage().mutable_data(), c10::Device(c10::kCPU));
      auto* allocator = c10::GetAllocator(c10::kCPU);
      storage = c10::Storage(c10::Storage::use_byte_size_t(), t.storage().nbytes(), std::move(data), allocator, true);
      origins_.emplace(storage.unsafeGetStorageImpl(), t);
    }
    auto host = make_tensor(storage, c10::DispatchKey::CPU, t);
    tensors_.emplace_back(t, host);
    return host;
  }

  // An argument that is returned, a view of one, or something new.
  Tensor to_device(const Tensor& t) {
    if (!t.defined()) return t;
    for (const auto& [device_tensor, host_tensor] : tensors_) {
      if (host_tensor.is_same(t)) return device_tensor;
    }
    auto* storage = t.storage().unsafeGetStorageImpl();
    const auto found = origins_.find(storage);
    if (found != origins_.end()) return make_view(found->second, t);

    const c10::DeviceGuard guard(device_.value());
    const auto size = t.storage().nbytes();
    c10::Storage copy(c10::Storage::use_byte_size_t(), size, memory.allocate(size), &memory, true);
    if (size) std::memcpy(copy.mutable_data(), t.storage().data(), size);
    auto made = make_tensor(std::move(copy), c10::DispatchKey::PrivateUse1, t);
    origins_.emplace(storage, made);
    kept_.push_back(t);  // else another result could have the same address
    return made;
  }

  // A kernel may have given a result that came empty its size, and other memory.
  void update_resized() {
    for (const auto& [device_tensor, host_tensor] : tensors_) {
      const auto& host = host_tensor.storage();
      auto* here = device_tensor.storage().unsafeGetStorageImpl();
      if (host.data() != here->data()) {
        const c10::DeviceGuard guard(device_tensor.device());
        auto data = memory.allocate(host.nbytes());
        std::memcpy(data.mutable_get(), host.data(), host.nbytes());
        here->set_data_ptr_noswap(std::move(data));
        here->set_nbytes(host.nbytes());
      }
      if (host_tensor.sizes() != device_tensor.sizes()) {
        auto* impl = device_tensor.unsafeGetTensorImpl();
        impl->set_sizes_and_strides(host_tensor.sizes(), host_tensor.strides(), host_tensor.storage_offset());
      }
    }
  }

  void set_device(c10::Device device) { device_ = device; }

 private:
  std::optional<c10::Device> device_;
  std::vector<std::pair<Tensor, Tensor>> tensors_;
  std::map<c10::StorageImpl*, c10::Storage> storages_;  // from the device's to the host's
  std::map<c10::StorageImpl*, Tensor> origins_;         // from the host's to a tensor of the device
  std::vector<Tensor> kept_;
};

template <typename Change>
IValue change_tensors(const IValue& value, Change change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& t : value.toTensorList()) list.push_back(change(t));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (std::optional<Tensor> t : value.toOptionalTensorList()) {
      list.push_back(t ? std::optional<Tensor>(change(*t)) : std::nullopt);
    }
    return list;
  }
  return value;
}

// ------------------------------------------------------------------------- what a GPU refuses, and waits

// The shape of the result, or the result, is a value that the host has to read.
const std::set<std::string> kReads = {
    "aten::_local_scalar_dense", "aten::_unique2", "aten::bincount", "aten::equal", "aten::is_nonzero",
    "aten::masked_select", "aten::nonzero", "aten::repeat_interleave", "aten::unique_dim",
};

// `x[indices]` takes indices from the host too.
const std::set<std::string> kTakesHostIndices = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"};

void check_devices(const std::string& name, const std::vector<IValue>& arguments) {
  std::optional<c10::Device> device;
  bool on_host = false;
  const auto look_at = [&](const Tensor& t) {
    if (!t.defined()) return t;
    if (t.device().type() == kHere) {
      TORCH_CHECK(
          !device || *device == t.device(), "Expected all tensors to be on the same device, but found at least two devices, ",
          device.value_or(t.device()), " and ", t.device(), "! (", name, ")");
      device = t.device();
    } else if (t.dim() > 0) {
      on_host = true;  // a single number may come from the host
    }
    return t;
  };
  for (const auto& value : arguments) change_tensors(value, look_at);
  TORCH_CHECK(
      !device || !on_host || kTakesHostIndices.count(name), "Expected all tensors to be on the same device, but found at least two devices, ",
      device.value_or(c10::Device(c10::kCPU)), " and cpu! (", name, ")");
}

void check_transform(const std::string& name, const std::vector<IValue>& arguments) {
  if (name.rfind("aten::_fft_", 0) != 0 || !arguments[0].isTensor()) return;
  const auto type = c10::toRealValueType(arguments[0].toTensor().scalar_type());
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, "cuFFT transforms float32 and float64, not ", type);
}

bool reads_values(const std::string& name, const std::vector<IValue>& arguments) {
  if (kReads.count(name)) return true;
  if (!kTakesHostIndices.count(name)) return false;
  bool by_booleans = false;
  for (const auto& value : arguments) {
    if (!value.isOptionalTensorList()) continue;
    for (std::optional<Tensor> t : value.toOptionalTensorList()) {
      by_booleans |= t && t->defined() && (t->scalar_type() == at::kBool || t->scalar_type() == at::kByte);
    }
  }
  return by_booleans;
}

// --------------------------------------------------------------------------------- operators in general

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto count = schema.arguments().size();
  const std::vector<IValue> given(stack->end() - count, stack->end());
  check_devices(schema.name(), given);
  check_transform(schema.name(), given);
  if (reads_values(schema.name(), given)) wait_for(schema.name());
  launches++;

  Arguments arguments;
  torch::jit::drop(*stack, count);
  for (const auto& value : given) {
    if (value.isDevice() && value.toDevice().type() == kHere) {
      arguments.set_device(value.toDevice());
      stack->emplace_back(c10::Device(c10::kCPU));
    } else {
      stack->push_back(change_tensors(value, [&](const Tensor& t) { return arguments.to_host(t); }));
    }
  }
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    op.callBoxed(stack);
  }
  arguments.update_resized();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    (*stack)[i] = change_tensors((*stack)[i], [&](const Tensor& t) { return arguments.to_device(t); });
  }
}

// ------------------------------------------------------------------------------------ special operators

Tensor empty(
    c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(c10::device_or_default(device));
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(c10::device_or_default(device));
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  const bool leaves = from.device().type() == kHere && to.device().type() != kHere;
  const bool enters = from.device().type() != kHere && to.device().type() == kHere;
  if (from.numel() > 0 && (leaves || (enters && !non_blocking))) wait_for("copy_");
  launches++;
  Arguments arguments;
  arguments.to_host(to).copy_(arguments.to_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar(const Tensor& t) {
  wait_for("item");
  Arguments arguments;
  return at::_local_scalar_dense(arguments.to_host(t));
}

Tensor as_strided(const Tensor& t, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<int64_t> offset) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(t.storage()), t.key_set(), t.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset.value_or(t.storage_offset()));
  return view;
}

const Tensor& resize_(const Tensor& t, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = t.unsafeGetTensorImpl();
  if (t.sizes() == size) return t;
  impl->set_sizes_contiguous(size);
  const size_t needed = (t.storage_offset() + t.numel()) * t.element_size();
  const size_t held = t.storage().nbytes();
  if (needed > held) {
    const c10::DeviceGuard guard(t.device());
    auto data = memory.allocate(needed);
    if (held) std::memcpy(data.mutable_get(), t.storage().data(), held);
    t.storage().unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(data));
    t.storage().unsafeGetStorageImpl()->set_nbytes(needed);
  }
  return t;
}

Tensor& set_storage(Tensor& t, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  std::vector<int64_t> dense(size.size(), 1);
  for (int64_t i = static_cast<int64_t>(size.size()) - 2; i >= 0; i--) dense[i] = dense[i + 1] * size[i + 1];
  t.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  t.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride.empty() ? c10::IntArrayRef(dense) : stride, offset);
  return t;
}

Tensor& set_whole_storage(Tensor& t, at::Storage source) {
  const int64_t count = source.nbytes() / t.element_size();
  return set_storage(t, std::move(source), 0, {count}, {1});
}

Tensor convolution(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, c10::IntArrayRef stride,
    c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed, c10::IntArrayRef output_padding, int64_t groups) {
  check_devices("aten::convolution", {x, weight});
  launches++;
  Arguments arguments;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  std::optional<Tensor> host_bias;
  if (bias && bias->defined()) host_bias = arguments.to_host(*bias);
  return arguments.to_device(at::convolution(
      arguments.to_host(x), arguments.to_host(weight), host_bias, stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& weight, c10::IntArrayRef stride, c10::IntArrayRef padding,
    c10::IntArrayRef dilation, bool transposed, c10::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> wanted) {
  launches++;
  Arguments arguments;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const std::vector<int64_t> bias_size = {weight.size(0)};
  auto [of_x, of_weight, of_bias] = at::convolution_backward(
      arguments.to_host(gradient), arguments.to_host(x), arguments.to_host(weight), at::OptionalIntArrayRef(bias_size), stride,
      padding, dilation, transposed, output_padding, groups, wanted);
  return {arguments.to_device(of_x), arguments.to_device(of_weight), arguments.to_device(of_bias)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("as_strided", as_strided);
  m.impl("resize_", resize_);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  // These have a general form, which calls other operators with other rounding.
  for (const auto* name : {"native_layer_norm", "conj_physical", "conj_physical_"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  }
}

// A copy resolves the conjugate bit itself. Otherwise it would be resolved by a copy.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }

// -------------------------------------------------------------------------------------- for __init__.py

int64_t set_refuse_waiting(bool on) {
  refuse_waiting = on;
  return 0;
}

int64_t reset_peak() {
  peak = allocated.load();
  return peak;
}

TORCH_LIBRARY(second_device, m) {
  static Hooks hooks;
  c10::SetAllocator(kHere, &memory);
  at::RegisterPrivateUse1HooksInterface(&hooks);
  m.def("refuse_waiting", &set_refuse_waiting);
  m.def("reset_peak", &reset_peak);
  m.def("allocated", []() -> int64_t { return allocated; });
  m.def("peak", []() -> int64_t { return peak; });
  m.def("launches", []() -> int64_t { return launches; });
  m.def("current", []() -> int64_t { return current_device; });
  m.def("set_current", [](int64_t index) -> int64_t { return current_device = index; });
}

}  // namespace

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)
}

// The same operators in half precision and in float32 as on CUDA.
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

namespace at::autocast {
#define IN_HALF(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define IN_FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define SUM_IN_FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define IN_THE_WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(IN_HALF)
  AT_FORALL_FP32(IN_FLOAT32)
  AT_FORALL_FP32_SET_OPT_DTYPE(SUM_IN_FLOAT32)
  AT_FORALL_PROMOTE(IN_THE_WIDEST)
}
}  // namespace at::autocast
