//! Shared by the kernel tests: namespaces, cgroups, the loaded programs.
