namespace OpenSora.Models;

/// <summary>Specifies when the weights of a part of a model are in memory. The computed values are the same.</summary>
public enum Residency
{
    /// <summary>The weights stay in memory. This is the fastest choice.</summary>
    Keep,

    /// <summary>The weights are loaded when a request needs the part and unloaded when no running request needs it.</summary>
    Release,

    /// <summary>The weights are loaded and unloaded as with <see cref="Release"/>, and those of the network's blocks are in memory one block at a
    /// time, while the block computes. This is for parts that do not fit in memory.</summary>
    Stream,
}
