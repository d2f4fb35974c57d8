#%Module1.0
# Environment Modules: gkfs in the PATH. Save as gkfs/VERSION where `module use` looks, and put the
# folder in that has module-bin/gkfs, a link to bin/gkfs of its Python environment.
set version [file tail [module-info name]]
set prefix  /opt/gkfs/$version

module-whatis "temporary file system of a job on the local disks of its nodes"
proc ModulesHelp { } {
    puts stderr {    eval "$(gkfs start)"        in a batch script; then $GKFS_MOUNTDIR is there on all nodes}
    puts stderr {    gkfs stop}
}

# Only the one command: the other programs of its Python environment would hide the user's.
prepend-path PATH $prefix/module-bin

# What this site wants as default; users can override it. See docs/cli.md.
# setenv GKFS_ROOTDIR /local/scratch
# setenv GKFS_INTERFACE ib0
