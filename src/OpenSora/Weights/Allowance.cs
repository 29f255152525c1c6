using System.Runtime.CompilerServices;

namespace OpenSora.Weights;

/// <summary>What reading a file's description may allocate: twice the file's length, so that a file made to exhaust memory is refused
/// instead.</summary>
/// <remarks>Counts what the current thread allocates from the moment this is made. Small files, whose descriptions outweigh their tensors, get
/// <see cref="Least"/>:
/// a tensor takes about a kilobyte to describe.</remarks>
internal readonly struct Allowance(string path, long fileLength)
{
    public const long Least = 1 << 22;

    private readonly long _limit = GC.GetAllocatedBytesForCurrentThread() + Math.Max(2 * fileLength, Least);

    /// <summary>Throws if what was allocated, and what is about to be, is too much.</summary>
    /// <param name="next">Bytes that are allocated next.</param>
    public void Expect(long next = 0)
    {
        if (next > _limit - GC.GetAllocatedBytesForCurrentThread())
        {
            throw new InvalidWeightsException(
                path,
                "describing what it holds takes more memory than twice the file's length; it is damaged, or made to exhaust memory."
            );
        }
    }

    /// <summary>Adds to a list, which may have to grow for it.</summary>
    public void Add<T>(List<T> list, T item)
    {
        if (list.Count == list.Capacity)
        {
            Expect(Unsafe.SizeOf<T>() * Math.Max(4L, 2L * list.Capacity));
        }

        list.Add(item);
    }
}
