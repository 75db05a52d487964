// Copies that are on their way until they are waited for, as on a device.
#pragma once

#include <cstddef>

void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes);
void __pipeline_commit();
void __pipeline_wait_prior(int);
