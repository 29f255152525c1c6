using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>Weights on disk, of any format that is read: a safetensors file, a PyTorch checkpoint (.pt, .pth, .bin, .ckpt), or either in
/// shards.</summary>
/// <remarks>
/// <para>Opening reads and checks descriptions only; a tensor's bytes are read from disk when they are first used. Tensors of at least 64 KiB lie in
/// the mapped
/// file itself, if their bytes are aligned to the element size. The map is private to this process: writing into such a tensor never changes the
/// file.</para>
/// <para>A mapped file must not be overwritten in place or truncated: the change would show in the tensors, or end the process. Replacing it by
/// renaming a new
/// file over it, as all writers here do, is safe: the old contents stay until the last tensor over them is gone.</para>
/// <para>Tensors stay valid after this object is disposed of. Safe to use from several threads at once.</para>
/// </remarks>
public abstract class WeightsFile : IDisposable
{
    private static readonly string[] Patterns = ["*.safetensors.index.json", "*.safetensors", "*.bin.index.json", "*.bin", "*.pth", "*.pt", "*.ckpt"];

    private protected WeightsFile(string path) => Path = path;

    /// <summary>The file's full path; of shards, the index's.</summary>
    public string Path { get; }

    /// <summary>The format in words, such as <c>safetensors</c>.</summary>
    public abstract string Format { get; }

    /// <summary>The file's own key-value pairs; of a PyTorch checkpoint, the numbers and texts beside its tensors, such as <c>epoch</c>.</summary>
    public abstract IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>What the file holds, by name; of a PyTorch checkpoint with several sections, the chosen one's.</summary>
    public abstract IReadOnlyDictionary<string, TensorEntry> Tensors { get; }

    /// <summary>The dictionaries of tensors in a PyTorch checkpoint; one of no name where all is in one.</summary>
    public virtual IReadOnlyList<WeightsSection> Sections => [new("", Tensors.Count, Chosen: true)];

    /// <summary>Opens weights. The format is recognised by what is in the file, not by its name.</summary>
    /// <param name="path">A file of weights, the index of shards (<c>*.index.json</c>), or a folder with one of those.</param>
    /// <param name="section">Which of several dictionaries of tensors in a PyTorch checkpoint to take, such as <c>model</c>; null: moving averages
    /// (<c>ema</c>) if there are any, else <c>state_dict</c>, <c>model</c> and the like.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidWeightsException">The file is of another kind, is damaged, or has no such section.</exception>
    public static WeightsFile Open(string path, string? section = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        path = System.IO.Path.GetFullPath(path);
        if (Directory.Exists(path))
        {
            path = OnlyOneIn(path);
        }

        if (path.EndsWith(".json", StringComparison.OrdinalIgnoreCase))
        {
            return new ShardedFile(path, section);
        }

        var file = new MappedFile(path, SafetensorsHeader.PrefixLength);
        if (PyTorchFile.IsOne(file))
        {
            return new PyTorchFile(file, section);
        }

        return section is null ? new SafetensorsFile(file) : throw WithoutSections(file, section);
    }

    /// <summary>Gives one tensor, on the CPU, in the file's own type.</summary>
    /// <param name="name">Its name.</param>
    /// <returns>The tensor, owned by the caller; it outlives this object. Writing into it shows nowhere else.</returns>
    /// <exception cref="KeyNotFoundException">The file has no such tensor.</exception>
    /// <exception cref="InvalidWeightsException">The tensor's type does not exist in the tensor library, or a boolean is neither 0 nor 1.</exception>
    /// <exception cref="ObjectDisposedException">The file is closed.</exception>
    public Tensor Read(string name)
    {
        using var maps = new TensorMaps();
        return Read(name, maps);
    }

    /// <summary>Gives one tensor, which lies in one of the given maps if it can.</summary>
    internal Tensor Read(string name, TensorMaps? maps) =>
        Tensors.TryGetValue(name, out var entry)
            ? Read(entry, maps)
            : throw new KeyNotFoundException(
                $"'{Path}' has no tensor '{name}'. It has {Tensors.Count}: {string.Join(", ", Tensors.Keys.Take(8))}{(Tensors.Count > 8 ? ", ..." : "")}"
            );

    /// <summary>Closes the file. Tensors that were read from it stay valid.</summary>
    public void Dispose()
    {
        Close();
        GC.SuppressFinalize(this);
    }

    private protected abstract Tensor Read(TensorEntry entry, TensorMaps? maps);

    private protected abstract void Close();

    private static InvalidWeightsException WithoutSections(MappedFile file, string section)
    {
        file.Dispose();
        return new InvalidWeightsException(file.Path, $"the section '{section}' was asked for, but it is no PyTorch checkpoint and has no sections.");
    }

    /// <summary>The weights in a folder as transformers and diffusers lay it out: of the first kind that there is, all files.</summary>
    internal static IReadOnlyList<string> InFolder(string folder) =>
        Patterns
            .Select(pattern => Directory.GetFiles(folder, pattern).Order(StringComparer.Ordinal).ToArray())
            .FirstOrDefault(files => files.Length > 0)
        ?? [];

    private static string OnlyOneIn(string folder)
    {
        var files = InFolder(folder);
        return files.Count switch
        {
            1 => files[0],
            0 => throw new InvalidWeightsException(folder, $"the folder holds no weights; expected one of {string.Join(", ", Patterns)}."),
            _ => throw new InvalidWeightsException(
                folder,
                $"the folder holds {files.Count} files of weights; give one of them: {string.Join(", ", files.Take(8).Select(System.IO.Path.GetFileName))}{(files.Count > 8 ? ", ..." : "")}"
            ),
        };
    }
}

/// <summary>A dictionary of tensors in a PyTorch checkpoint.</summary>
/// <param name="Name">Where it is, such as <c>ema</c> or <c>model.state_dict</c>; empty for the outermost one.</param>
/// <param name="Tensors">How many tensors it holds.</param>
/// <param name="Chosen">Whether the file's tensors are these.</param>
public sealed record WeightsSection(string Name, int Tensors, bool Chosen);
