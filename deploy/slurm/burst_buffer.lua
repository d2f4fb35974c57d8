-- Slurm's burst_buffer/lua plugin for gkfs. A batch script asks for a file system by lines
--
--   #BB_LUA gkfs pool=gkfs capacity=200G
--   #BB_LUA gkfs stage_in=/project/input:in stage_out=out:/project/results
--
-- and finds it mounted on $GKFS_MOUNTDIR, with the folder "in" in it. When the script ends, "out"
-- is copied. Needed are, besides this file in /etc/slurm, the scripts task_prolog and task_epilog of
-- this folder, which do the work on the job's nodes with its user's rights, and in slurm.conf
--
--   BurstBufferType=burst_buffer/lua
--
-- Slurm runs the functions below beside slurmctld, so they only check what was asked for, count
-- the space that jobs have taken, and hand the wishes to the nodes as variables of the job.

-- The space that jobs get is a multiple of this, in bytes, and the local disks of all nodes together
-- hold so many multiples of it for gkfs.
local granularity_bytes = 2 ^ 30
local total_granules = 64 * 1024

local known = { pool = true, capacity = true, stage_in = true, stage_out = true }

-- The wishes of a script: a table of key to value, empty without such lines; or nil and the reason.
local function wishes_of(script)
    local file, reason = io.open(script, "r")
    if not file then
        return nil, reason
    end
    local wishes, problem = {}, nil
    for line in file:lines() do
        if line:match("^%s*[^#%s]") then
            break -- as with #SBATCH, comments behind the first command do not count
        end
        local words = line:match("^#BB_LUA%s+gkfs%s*(.*)$")
        for word in (words or ""):gmatch("%S+") do
            local key, value = word:match("^([%w_]+)=(.+)$")
            if not key or not known[key] then
                problem = problem or ("unknown word '" .. word .. "'")
            elseif wishes[key] then
                problem = problem or (key .. " is given twice")
            else
                wishes[key] = value
            end
        end
        if words then
            wishes.asked = true
        end
    end
    file:close()
    if problem then
        return nil, problem
    end
    return wishes
end

-- What is wrong with wishes, or nil.
local function problem_of(wishes)
    if wishes.capacity and wishes.pool ~= "gkfs" then
        return "capacity needs pool=gkfs before it"
    end
    if wishes.capacity and not wishes.capacity:match("^%d+[KMGTPkmgtp]?i?[Bb]?$") then
        return "capacity=" .. wishes.capacity .. " is no size such as 200G"
    end
    local from, to = (wishes.stage_in or "/a:b"):match("^(/[^:]*):([^:]+)$")
    if not from or to:sub(1, 1) == "/" or to:find("..", 1, true) then
        return "stage_in=" .. wishes.stage_in .. " is not /SOURCE:FOLDER, FOLDER being in the file system"
    end
    from, to = (wishes.stage_out or "a:/b"):match("^([^:]+):(/[^:]*)$")
    if not from or from:sub(1, 1) == "/" or from:find("..", 1, true) then
        return "stage_out=" .. wishes.stage_out .. " is not FOLDER:/TARGET, FOLDER being in the file system"
    end
    return nil
end

-- The bytes that a capacity names, as digits.
local function bytes_of(capacity)
    local number, unit = capacity:upper():match("^(%d+)([KMGTP]?)")
    local power = unit == "" and 0 or ("KMGTP"):find(unit, 1, true)
    return string.format("%.0f", number * 1024 ^ power)
end

-- At submission: the user sees the message.
function slurm_bb_job_process(script)
    local wishes, reason = wishes_of(script)
    reason = reason or problem_of(wishes)
    if reason then
        slurm.log_info("gkfs: refused: %s", reason)
        return slurm.ERROR, "#BB_LUA gkfs: " .. reason
    end
    return slurm.SUCCESS
end

function slurm_bb_pools()
    return slurm.SUCCESS,
        string.format(
            '{"pools":[{"id":"gkfs","quantity":%.0f,"granularity":%.0f}]}',
            total_granules,
            granularity_bytes
        )
end

-- Before the job starts: NAME=value lines become variables of it.
function slurm_bb_paths(job_id, script, path_file)
    local wishes, reason = wishes_of(script)
    if not wishes then
        return slurm.ERROR, reason
    end
    local file
    file, reason = io.open(path_file, "w")
    if not file then
        return slurm.ERROR, reason
    end
    if wishes.asked then
        file:write("GKFS_BURST_BUFFER=1\n")
        file:write("GKFS_BURST_BUFFER_CAPACITY=", wishes.capacity and bytes_of(wishes.capacity) or "", "\n")
        file:write("GKFS_BURST_BUFFER_IN=", wishes.stage_in or "", "\n")
        file:write("GKFS_BURST_BUFFER_OUT=", wishes.stage_out or "", "\n")
    end
    file:close()
    return slurm.SUCCESS
end

-- The disks are on the job's nodes, and are there when the job is: nothing to do at the other stages.
local function nothing()
    return slurm.SUCCESS, ""
end

slurm_bb_setup = nothing
slurm_bb_data_in = nothing
slurm_bb_real_size = nothing
slurm_bb_pre_run = nothing
slurm_bb_post_run = nothing
slurm_bb_data_out = nothing
slurm_bb_job_teardown = nothing
slurm_bb_get_status = nothing
