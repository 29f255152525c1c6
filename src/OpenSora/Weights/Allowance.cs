using System.Runtime.CompilerServices;

namespace OpenSora.Weights;

/// <summary>A limit on the memory allocated while a file's description is read: twice the file's length. It rejects files that are crafted to exhaust
/// memory.</summary>
/// <remarks>Counts the allocations of the current thread since the instance was created. Small files, in which descriptions take more space than
/// tensors, are allowed <see cref="Least"/> bytes; the description of one tensor takes about a kilobyte.</remarks>
internal readonly struct Allowance(string path, long fileLength)
{
    public const long Least = 1 << 22;

    private readonly long _limit = GC.GetAllocatedBytesForCurrentThread() + Math.Max(2 * fileLength, Least);

    /// <summary>Throws an exception if the memory allocated so far plus the next allocation exceeds the limit.</summary>
    /// <param name="next">The size of the next allocation in bytes.</param>
    public void Expect(long next = 0)
    {
        if (next > _limit - GC.GetAllocatedBytesForCurrentThread())
        {
            throw new InvalidWeightsException(
                path,
                "its description requires more memory than twice the file's length; the file is damaged or was crafted to exhaust memory."
            );
        }
    }

    /// <summary>Adds an item to a list after checking that the list may grow.</summary>
    public void Add<T>(List<T> list, T item)
    {
        if (list.Count == list.Capacity)
        {
            Expect(Unsafe.SizeOf<T>() * Math.Max(4L, 2L * list.Capacity));
        }

        list.Add(item);
    }
}
