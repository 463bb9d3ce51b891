// A descriptor for logs that grow: whole records, appended.
#pragma once
#include <filesystem>
#include <string_view>

namespace smamba {

/// Opens for appending, creating the file when `flags` has O_CREAT. Error(kIo).
int open_append(const std::filesystem::path& path, int flags);
/// All of `bytes`, in one write where the system takes them so. After an error nothing of the record stays: the file is
/// cut back. Error(kIo).
void append_all(int fd, const std::filesystem::path& path, std::string_view bytes);
/// fsync, checked.
void sync_file(int fd, const std::filesystem::path& path);

}  // namespace smamba
