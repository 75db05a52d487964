#include "errors.h"

namespace gt::cuda {
namespace {

enum class Kind { kOther, kMemory, kUnavailable, kSticky };

struct Advice {
  Kind kind;
  const char* what_to_do;
};

Advice advice_for(cudaError_t code) {
  switch (code) {
    case cudaErrorMemoryAllocation:
      return {Kind::kMemory,
              "Free memory on the device (other engines, other programs), or use a smaller batch or "
              "picture"};
    case cudaErrorNoDevice:
      return {Kind::kUnavailable, "No NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES?); use engine=\"cpu\""};
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return {Kind::kUnavailable, "Install a driver for this CUDA version or newer, or use engine=\"cpu\""};
    case cudaErrorInitializationError:
      return {Kind::kUnavailable,
              "CUDA does not start here; in a child made by fork after CUDA was used it never does: "
              "start processes with \"spawn\""};
    case cudaErrorInvalidDevice:
      return {Kind::kUnavailable, "Devices count from 0; gt-info lists them"};
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorInvalidKernelImage:
      return {Kind::kUnavailable,
              "This build has no code for this GPU: build with GT_CUDA_ARCHITECTURES naming its compute "
              "capability"};
    case cudaErrorDevicesUnavailable:
      return {Kind::kUnavailable, "Another process has this GPU to itself"};
    case cudaErrorInvalidResourceHandle:
      return {Kind::kOther, "The stream or event is of another device or context, or was destroyed"};
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
      return {Kind::kOther, "This call cannot be captured into a CUDA graph"};
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorCudartUnloading:
      return {Kind::kSticky, "The device's context is lost: start the process anew"};
    default:
      return {Kind::kOther, "See the CUDA documentation of this error"};
  }
}

}  // namespace

CudaError::CudaError(cudaError_t code, const std::string& message)
    : std::runtime_error(message), code_(code) {}

bool CudaError::is_sticky() const { return advice_for(code_).kind == Kind::kSticky; }

void check(cudaError_t code, const char* doing) {
  if (code == cudaSuccess) return;
  // Takes the error back, so that it is not reported again by the next call that is checked.
  static_cast<void>(cudaGetLastError());
  const Advice advice = advice_for(code);
  const std::string message = std::string("CUDA cannot ") + doing + ": " + cudaGetErrorString(code) +
                              " (" + cudaGetErrorName(code) + "). " + advice.what_to_do;
  switch (advice.kind) {
    case Kind::kMemory:
      throw OutOfMemory(code, message);
    case Kind::kUnavailable:
      throw Unavailable(code, message);
    default:
      throw CudaError(code, message);
  }
}

}  // namespace gt::cuda
