using System.Collections;
using TorchSharp;
using TorchSharp.Modules;

namespace OpenSora.Models.Layers;

/// <summary>Blocks that a network runs one after another, such as <c>foreach (var block in blocks) { x = block.call(x); }</c>. With
/// <see cref="Residency.Stream"/>, enumerating the list has the weights of each block in memory until the enumeration reaches the next one.</summary>
/// <remarks>The parameters have the names that they have in a <see cref="ModuleList{T}"/>. With <see cref="Residency.Stream"/>, a block that is
/// accessed by index has no weights (its large parameters are NaN).</remarks>
/// <typeparam name="T">The type of the blocks.</typeparam>
/// <param name="blocks">The blocks, in the order in which they run.</param>
public sealed class BlockList<T>(params T[] blocks) : ModuleList<T>(blocks), IEnumerable<T>, IBlockList
    where T : torch.nn.Module
{
    /// <summary>Enumerates the blocks in order.</summary>
    public new IEnumerator<T> GetEnumerator()
    {
        for (var i = 0; i < Count; i++)
        {
            using var weights = TransientWeights.Use(this[i], next: i + 1 < Count ? this[i + 1] : null);
            yield return this[i];
        }
    }

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}

/// <summary>A <see cref="BlockList{T}"/> of any type.</summary>
internal interface IBlockList;
