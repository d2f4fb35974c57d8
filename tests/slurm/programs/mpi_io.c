/* Rank R writes COUNT numbers R*COUNT... of one file together with all others; each checks its right neighbour's. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { COUNT = 50021 };

int main(int argc, char **argv)
{
    int rank, size, other, wrong = 0, all_wrong, i;
    static int numbers[COUNT];
    MPI_File file;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (i = 0; i < COUNT; i++)
        numbers[i] = rank * COUNT + i;
    if (argc != 2 || MPI_File_open(MPI_COMM_WORLD, argv[1], MPI_MODE_CREATE | MPI_MODE_WRONLY, MPI_INFO_NULL, &file))
        MPI_Abort(MPI_COMM_WORLD, 2);
    MPI_File_write_at_all(file, (MPI_Offset)rank * sizeof numbers, numbers, COUNT, MPI_INT, MPI_STATUS_IGNORE);
    MPI_File_close(&file);

    other = (rank + size / 2) % size;
    if (MPI_File_open(MPI_COMM_WORLD, argv[1], MPI_MODE_RDONLY, MPI_INFO_NULL, &file))
        MPI_Abort(MPI_COMM_WORLD, 2);
    MPI_File_read_at_all(file, (MPI_Offset)other * sizeof numbers, numbers, COUNT, MPI_INT, MPI_STATUS_IGNORE);
    MPI_File_close(&file);
    for (i = 0; i < COUNT; i++)
        wrong += numbers[i] != other * COUNT + i;

    MPI_Allreduce(&wrong, &all_wrong, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%d ranks, %d numbers wrong\n", size, all_wrong);
    MPI_Finalize();
    return all_wrong != 0;
}
