using System.Buffers.Binary;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Weights;

/// <summary>A memory-mapped safetensors file.</summary>
internal sealed class SafetensorsFile : WeightsFile
{
    private readonly MappedFile _file;

    internal SafetensorsFile(MappedFile file)
        : base(file.Path)
    {
        _file = file;
        try
        {
            var allowance = new Allowance(file.Path, file.Length);
            var prefix = file.Bytes(0, SafetensorsHeader.PrefixLength);
            var headerLength = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
            if (headerLength > (ulong)(file.Length - SafetensorsHeader.PrefixLength) || headerLength > SafetensorsHeader.MaxLength)
            {
                throw new InvalidWeightsException(
                    Path,
                    WhatElse(prefix)
                        ?? $"it declares a header of {headerLength} bytes, but has {file.Length} bytes; it is truncated or not a safetensors file."
                );
            }

            var header = file.Bytes(SafetensorsHeader.PrefixLength, (int)headerLength);
            Tensors = SafetensorsHeader.Parse(Path, header, file.Length, allowance, out var metadata);
            Metadata = metadata;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override string Format => "safetensors";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>The tensors in the file by name, ordered by their position in the file.</summary>
    public override IReadOnlyDictionary<string, TensorEntry> Tensors { get; }

    /// <summary>Opens a safetensors file and validates its header.</summary>
    /// <param name="path">The path of a safetensors file.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="InvalidWeightsException">The path is a folder, or the file is not a safetensors file, is truncated or is
    /// inconsistent.</exception>
    public static SafetensorsFile Open(string path) => new(new MappedFile(path, SafetensorsHeader.PrefixLength));

    private protected override Tensor Read(TensorEntry entry, TensorMaps? maps) => _file.Tensor(entry, maps);

    internal override MappedFile FileOf(TensorEntry entry) => _file;

    private protected override void Close() => _file.Dispose();

    /// <summary>Recognizes other kinds of files that are commonly passed instead of weights.</summary>
    private static string? WhatElse(ReadOnlySpan<byte> start) =>
        start switch
        {
            [(byte)'P', (byte)'K', 3, 4, ..] => "it is a zip archive, probably a PyTorch checkpoint (.pt, .pth, .bin); expected safetensors.",
            [0x80, >= 2 and <= 5, ..] => "it is a Python pickle, probably an old PyTorch checkpoint (.pt, .pth, .bin); expected safetensors.",
            [(byte)'v', (byte)'e', (byte)'r', (byte)'s', (byte)'i', (byte)'o', (byte)'n', (byte)' ', ..] =>
                "it is a text file that begins with 'version', probably a Git LFS pointer; download the actual file with 'git lfs pull'.",
            [(byte)'{', ..] => "it is a text file that looks like JSON; expected safetensors.",
            [(byte)'<', ..] => "it is a text file that looks like HTML or XML, probably an error page saved by a download; expected safetensors.",
            _ => null,
        };
}
