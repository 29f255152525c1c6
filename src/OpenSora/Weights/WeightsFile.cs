using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>A weights file in any supported format: a safetensors file or a PyTorch checkpoint (.pt, .pth, .bin, .ckpt), as a single file or in
/// shards.</summary>
/// <remarks>
/// <para>Opening a file reads and validates only the descriptions of the tensors; their data is read from disk when it is first used. Tensors of at
/// least 64 KiB use the memory-mapped file directly if their data is aligned to the element size. The mapping is private to the process: writing to
/// such a tensor never changes the file.</para>
/// <para>Do not overwrite a memory-mapped file in place or truncate it: the change would be visible in the tensors or terminate the process.
/// Replacing the file by renaming a new file, as all writers in this library do, is safe: the old contents stay available until the last tensor that
/// uses them is disposed.</para>
/// <para>Tensors stay valid after this object is disposed. This type is thread-safe.</para>
/// </remarks>
public abstract class WeightsFile : IDisposable
{
    private static readonly string[] Patterns = ["*.safetensors.index.json", "*.safetensors", "*.bin.index.json", "*.bin", "*.pth", "*.pt", "*.ckpt"];

    private protected WeightsFile(string path) => Path = path;

    /// <summary>The full path of the file or, for sharded weights, of the index.</summary>
    public string Path { get; }

    /// <summary>A description of the format, such as <c>safetensors</c>.</summary>
    public abstract string Format { get; }

    /// <summary>The key-value pairs stored in the file; for a PyTorch checkpoint, the numbers and strings stored next to the tensors, such as
    /// <c>epoch</c>.</summary>
    public abstract IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>The tensors in the file by name; for a PyTorch checkpoint with several sections, those of the selected section.</summary>
    public abstract IReadOnlyDictionary<string, TensorEntry> Tensors { get; }

    /// <summary>The paths of the sections (dictionaries of tensors) of a PyTorch checkpoint, such as <c>ema</c> or <c>model.state_dict</c>, with
    /// their numbers of tensors; a single section with an empty path if all tensors are in one dictionary.</summary>
    public IReadOnlyDictionary<string, int> Sections =>
        AllSections.ToDictionary(section => section.Name, section => section.Tensors, StringComparer.Ordinal);

    /// <summary>The path of the section that <see cref="Tensors"/> contains; empty if all tensors are in one dictionary.</summary>
    public string Section => AllSections.FirstOrDefault(section => section.Chosen)?.Name ?? "";

    internal virtual IReadOnlyList<WeightsSection> AllSections => [new("", Tensors.Count, Chosen: true)];

    /// <summary>Opens a weights file. The format is detected from the contents, not from the file name.</summary>
    /// <param name="path">A weights file, the index of a sharded file (<c>*.index.json</c>), or a folder that contains one of these.</param>
    /// <param name="section">The section (dictionary of tensors) of a PyTorch checkpoint to read, such as <c>model</c>. If null, the moving averages
    /// (<c>ema</c>) if present, otherwise a common name such as <c>state_dict</c> or <c>model</c>.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">The file has an unsupported format, is damaged, or does not contain the section.</exception>
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

    /// <summary>Writes tensors to a safetensors file. The file is written under a temporary name and then renamed, so that the target is either
    /// complete or unchanged.</summary>
    /// <param name="path">The path of the file to write. Its folder is created if it does not exist.</param>
    /// <param name="tensors">The tensors by name, on any device and with any layout. The caller keeps ownership.</param>
    /// <param name="metadata">Key-value pairs to store in the header.</param>
    /// <exception cref="ArgumentException">A name occurs twice, or the format does not support the dtype of a tensor.</exception>
    /// <exception cref="IOException">The file could not be written.</exception>
    public static void Write(string path, IEnumerable<KeyValuePair<string, Tensor>> tensors, IReadOnlyDictionary<string, string>? metadata = null) =>
        SafetensorsWriter.Write(path, tensors, metadata);

    /// <summary>Reads one tensor on the CPU with the dtype in the file.</summary>
    /// <param name="name">The name of the tensor.</param>
    /// <returns>The tensor, owned by the caller. It stays valid after this object is disposed. Writing to it does not affect the file or other
    /// tensors.</returns>
    /// <exception cref="KeyNotFoundException">The file does not contain the tensor.</exception>
    /// <exception cref="InvalidWeightsException">The dtype of the tensor is not supported, or a boolean is neither 0 nor 1.</exception>
    /// <exception cref="ObjectDisposedException">The file is closed.</exception>
    public Tensor Read(string name)
    {
        using var maps = new TensorMaps();
        return Read(name, maps);
    }

    /// <summary>Reads one tensor, as a view of one of the specified mappings if possible.</summary>
    internal Tensor Read(string name, TensorMaps? maps) =>
        Tensors.TryGetValue(name, out var entry)
            ? Read(entry, maps)
            : throw new KeyNotFoundException(
                $"'{Path}' has no tensor '{name}'. "
                    + $"It has {Tensors.Count}: {string.Join(", ", Tensors.Keys.Take(8))}{(Tensors.Count > 8 ? ", ..." : "")}"
            );

    /// <summary>Closes the file. Tensors that were read from the file stay valid.</summary>
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
        return new InvalidWeightsException(file.Path, $"the section '{section}' was requested, but the file is not a PyTorch checkpoint.");
    }

    /// <summary>Gets the weights files in a folder laid out like those of transformers and diffusers: all files that match the first pattern with a
    /// match.</summary>
    /// <param name="folder">The folder.</param>
    /// <returns>The paths of the files; empty if there is none.</returns>
    public static IReadOnlyList<string> InFolder(string folder) =>
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
            0 => throw new InvalidWeightsException(folder, $"the folder contains no weights; expected one of {string.Join(", ", Patterns)}."),
            _ => throw new InvalidWeightsException(
                folder,
                $"the folder contains {files.Count} weights files; specify one of them: "
                    + $"{string.Join(", ", files.Take(8).Select(System.IO.Path.GetFileName))}{(files.Count > 8 ? ", ..." : "")}"
            ),
        };
    }
}
