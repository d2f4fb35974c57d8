-- Lmod module: gkfs in the PATH. Save as gkfs/VERSION.lua where `module use` looks, and put the
-- folder in that has module-bin/gkfs, a link to bin/gkfs of its Python environment.
local prefix = "/opt/gkfs/" .. myModuleVersion()

help([[
gkfs: a temporary file system for one job, on the local disks of its nodes.

    eval "$(gkfs start)"        in a batch script; then $GKFS_MOUNTDIR is there on all nodes
    gkfs stop
]])
whatis("Name: gkfs")
whatis("Version: " .. myModuleVersion())
whatis("Description: temporary file system of a job on the local disks of its nodes")

-- Only the one command: the other programs of its Python environment would hide the user's.
prepend_path("PATH", pathJoin(prefix, "module-bin"))

-- What this site wants as default; users can override it. See docs/cli.md.
-- setenv("GKFS_ROOTDIR", "/local/scratch")
-- setenv("GKFS_INTERFACE", "ib0")
