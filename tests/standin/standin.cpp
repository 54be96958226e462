// A simulated device: it uses memory of the host, and the CPU computes. It implements what torch
// requires of an accelerator.
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace {

using at::Tensor;

constexpr auto kind = c10::DeviceType::PrivateUse1;
const c10::Device only(kind, 0);

// === memory ================================================================================

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? std::malloc(bytes) : nullptr;
    TORCH_CHECK(data || !bytes, "out of memory");
    return {data, data, &std::free, only};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &std::free;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

Memory memory;
REGISTER_ALLOCATOR(kind, &memory)

bool doubles = true;

at::ScalarType held(std::optional<at::ScalarType> dtype) {
  TORCH_CHECK_TYPE(doubles || dtype != at::kDouble, "this device holds no float64");
  return c10::dtype_or_default(dtype);
}

const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);

Tensor empty(
    at::IntArrayRef sizes,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device>,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(sizes, &memory, keys, held(dtype), format);
}

Tensor empty_strided(
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device>,
    std::optional<bool>) {
  return at::detail::empty_strided_generic(
      sizes, strides, &memory, keys, held(dtype));
}

// === copies ================================================================================

// The same memory as a tensor of the host.
Tensor on_host(const Tensor& tensor) {
  if (!tensor.is_privateuseone()) {
    return tensor;
  }
  auto seen = at::from_blob(
      tensor.mutable_data_ptr(),
      tensor.sizes(),
      tensor.strides(),
      at::TensorOptions().dtype(tensor.scalar_type()));
  seen._set_conj(tensor.is_conj());
  seen._set_neg(tensor.is_neg());
  return seen;
}

std::atomic<long> copies_to_host{0};

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  if (from.is_privateuseone() && to.is_cpu()) {
    ++copies_to_host;
  }
  on_host(to).copy_(on_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) {
    to.resize_(from.sizes());
  }
  return copy_from(from, to, false);
}

at::Scalar read(const Tensor& tensor) {
  ++copies_to_host;
  return on_host(tensor).item();
}

Tensor& set_storage(
    Tensor& tensor,
    at::Storage storage,
    int64_t offset,
    at::IntArrayRef sizes,
    at::IntArrayRef strides) {
  return at::native::set_storage_cpu_(tensor, std::move(storage), offset, sizes, strides);
}

const Tensor& resize(
    const Tensor& tensor, at::IntArrayRef sizes, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(tensor, sizes, format);
}

// === all other operations =======================================================================

bool elsewhere(const Tensor& tensor) {
  return tensor.defined() && tensor.is_cpu() && tensor.dim() > 0;
}

bool here(const Tensor& tensor) {
  return tensor.defined() && tensor.is_privateuseone();
}

// As on any accelerator, an index or a tensor without dimensions may be on the host.
void check_devices(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const auto& schema = op.schema();
  bool any_here = false, any_elsewhere = false;
  for (const auto& value : torch::jit::last(stack, schema.arguments().size())) {
    if (value.isTensor()) {
      any_here |= here(value.toTensor());
      any_elsewhere |= elsewhere(value.toTensor());
    } else if (value.isTensorList()) {
      for (const Tensor& tensor : value.toTensorVector()) {
        any_here |= here(tensor);
        any_elsewhere |= elsewhere(tensor);
      }
    }  // lists of optional tensors hold indices
  }
  TORCH_CHECK(
      !(any_here && any_elsewhere),
      "Expected all tensors to be on the same device, but found some on ",
      only,
      " and some on cpu, in ",
      schema.name());
}

// Results are new memory of the host; no operation returns a view.
Tensor taken_over(const Tensor& made) {
  if (!made.defined() || !made.is_cpu()) {
    return made;
  }
  Tensor own = at::detail::empty_strided_generic(
      made.sizes(), made.strides(), &memory, keys, made.scalar_type());
  on_host(own).copy_(made);
  return own;
}

// The CPU kernels get each argument in place, so that they see the same strides. An argument that
// is written to is passed as a copy, which may be resized, and is then written back.
void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  check_devices(op, *stack);
  const auto& schema = op.schema();
  const auto count = schema.arguments().size(), first = stack->size() - count;
  std::vector<std::pair<Tensor, Tensor>> written;  // each copy and its original
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[first + i];
    const auto* alias = schema.arguments()[i].alias_info();
    const auto hand_over = [&](const Tensor& tensor) {
      if (!here(tensor)) {
        return tensor;
      }
      auto seen = on_host(tensor);
      if (alias && alias->isWrite()) {
        seen = seen.clone();
        written.emplace_back(seen, tensor);
      }
      return seen;
    };
    if (value.isTensor()) {
      value = hand_over(value.toTensor());
    } else if (value.isTensorList()) {
      auto tensors = value.toTensorVector();
      std::transform(tensors.begin(), tensors.end(), tensors.begin(), hand_over);
      value = c10::List<Tensor>(tensors);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> tensors;
      for (std::optional<Tensor> tensor : value.toOptionalTensorList()) {
        tensors.push_back(tensor ? std::optional(hand_over(*tensor)) : tensor);
      }
      value = std::move(tensors);
    } else if (value.isDevice()) {
      value = c10::Device(c10::kCPU);
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (const auto& [copy, original] : written) {
    copy_from_and_resize(copy, original);
  }
  const auto give_back = [&](const Tensor& tensor) {
    for (const auto& [copy, original] : written) {
      if (copy.is_same(tensor)) {
        return original;
      }
    }
    return taken_over(tensor);
  };
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = give_back(value.toTensor());
    } else if (value.isTensorList()) {
      auto tensors = value.toTensorVector();
      std::transform(tensors.begin(), tensors.end(), tensors.begin(), give_back);
      value = c10::List<Tensor>(tensors);
    }
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define LOW(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define SINGLE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
  AT_FORALL_LOWER_PRECISION_FP(LOW)
  AT_FORALL_FP32(SINGLE)
}

// A copy resolves lazy conjugation and negation; torch's own resolution would copy endlessly.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &read);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &at::native::set_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("resize_", &resize);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
}

// === requirements of torch on an accelerator =====================================================

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kind;
  }
  c10::Device exchangeDevice(c10::Device) const override {
    return only;
  }
  c10::Device getDevice() const override {
    return only;
  }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, only);
  }
  c10::Stream getDefaultStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, only);
  }
  c10::Stream exchangeStream(c10::Stream) const override {
    return c10::Stream(c10::Stream::DEFAULT, only);
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return 1;
  }
  // Computation is synchronous, so an event has always happened.
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag)
      const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return 1;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override {
    return 0;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override {
    return 0;
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto fresh = memory.allocate(bytes);
    std::memcpy(fresh.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.set_data_ptr(std::move(fresh));
    storage.set_nbytes(bytes);
  }
};

Hooks hooks;
const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

} // namespace

extern "C" long standin_copies_to_host() {
  return copies_to_host;
}

// Make the device reject float64 from now on, as some accelerators do.
extern "C" void standin_without_doubles() {
  doubles = false;
}
