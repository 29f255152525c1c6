using System.Globalization;
using System.IO.MemoryMappedFiles;
using System.Text.Json;
using OpenSora.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Stickers;

/// <summary>A background: what captions call it, and its color.</summary>
internal sealed record PaletteColor(string Name, string Phrase, int[] Rgb);

/// <summary>A sticker: captions with a place for the background, and plain ones that do not speak of it.</summary>
internal sealed record Sticker(string Code, string Thing, string Style, string Category, string[] Captions, string[] Plain)
{
    /// <summary>The names of the thing, without a style and an article: "goat".</summary>
    public IEnumerable<string> Names =>
        Plain.Select(WithoutArticle).Where(name => !name.StartsWith(Style + " ", StringComparison.Ordinal)).Distinct();

    private static string WithoutArticle(string caption) => caption.Split(' ', 2) is ["a" or "an" or "the", var name] ? name : caption;
}

/// <summary>What prepare.mjs packed: RGBA bytes of all stickers, and index.json, which says what they are.</summary>
internal sealed class StickerSet : IDisposable
{
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly long _length;

    private StickerSet(string folder, string kind)
    {
        using var index = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "index.json")));
        var json = new JsonSerializerOptions(JsonSerializerDefaults.Web);
        var (root, part) = (index.RootElement, index.RootElement.GetProperty(kind));
        Palette = root.GetProperty("palette").Deserialize<PaletteColor[]>(json)!;
        Items = part.GetProperty("items").Deserialize<Sticker[]>(json)!;
        var shape = part.GetProperty("shape").Deserialize<int[]>()!;
        (Frames, Height, Width) = shape.Length == 5 ? (shape[1], shape[2], shape[3]) : (1, shape[1], shape[2]);
        var path = Path.Combine(folder, part.GetProperty("file").GetString()!);
        _length = new FileInfo(path).Length;
        if (_length != (long)Items.Length * Frames * Height * Width * 4)
        {
            throw new InvalidDataException($"'{path}' has {_length} bytes, which is not what index.json says. Run data/prepare.mjs again.");
        }

        _file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, mapName: null, 0, MemoryMappedFileAccess.Read);
        _view = _file.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        Fingerprint = string.Create(CultureInfo.InvariantCulture, $"{kind} {string.Join('x', shape)}");
    }

    /// <summary>The style of all clips, and of stickers with captions that name no style.</summary>
    public const string Usual = "3D";

    /// <summary>The style that only stills have.</summary>
    public const string Flat = "flat";

    public static StickerSet Stills(string folder) => new(folder, "stills");

    public static StickerSet Clips(string folder) => new(folder, "clips");

    public PaletteColor[] Palette { get; }

    public Sticker[] Items { get; }

    public int Frames { get; }

    public int Height { get; }

    public int Width { get; }

    public string Fingerprint { get; }

    /// <summary>A sticker's frames on a background: <c>[3, frames, height, width]</c> in [-1, 1].</summary>
    public unsafe Tensor On(int index, PaletteColor background, int firstFrame, int frames)
    {
        using var scope = NewDisposeScope();
        var pixels = Height * Width;
        var result = new float[3 * frames * pixels];
        byte* start = null;
        _view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
        try
        {
            var source = start + _view.PointerOffset + ((long)index * Frames + firstFrame) * pixels * 4;
            for (var channel = 0; channel < 3; channel++)
            {
                var under = background.Rgb[channel];
                for (var i = 0; i < frames * pixels; i++)
                {
                    var alpha = source[4 * i + 3] / 255f;
                    result[channel * frames * pixels + i] = (under + (source[4 * i + channel] - under) * alpha) / 127.5f - 1;
                }
            }
        }
        finally
        {
            _view.SafeMemoryMappedViewHandle.ReleasePointer();
        }
        return tensor(result, [3, frames, Height, Width]).MoveToOuterDisposeScope();
    }

    /// <summary>A still, or a frame of a clip, with colors multiplied by its alpha: <c>[4, height, width]</c> in [0, 1].</summary>
    public Tensor Rgba(int index, int frame = 0)
    {
        using var scope = NewDisposeScope();
        var bytes = new byte[Height * Width * 4];
        _view.ReadArray(((long)index * Frames + frame) * bytes.Length, bytes, 0, bytes.Length);
        var rgba = tensor(bytes, [Height, Width, 4]).to(ScalarType.Float32).permute(2, 0, 1) / 255;
        var alpha = rgba.narrow(0, 3, 1);
        return cat([rgba.narrow(0, 0, 3) * alpha, alpha]).MoveToOuterDisposeScope();
    }

    /// <summary>The captions that are right for a sticker on a background. Those that do not speak of it mean white, the palette's first color, and
    /// those that do not
    /// speak of a style mean the usual one: what a caption leaves open, a model can only blur.</summary>
    public string[] CaptionsOn(int index, PaletteColor background)
    {
        var sticker = Items[index];
        var named = sticker.Captions.Select(caption => caption.Replace("{background}", background.Phrase, StringComparison.Ordinal));
        if (string.Equals(background.Name, Palette[0].Name, StringComparison.Ordinal))
        {
            named = named.Concat(sticker.Plain);
        }

        return
        [
            .. named.Where(caption =>
                string.Equals(sticker.Style, Usual, StringComparison.Ordinal) || caption.Contains(sticker.Style, StringComparison.Ordinal)
            ),
        ];
    }

    public void Dispose()
    {
        _view.Dispose();
        _file.Dispose();
    }
}

/// <summary>Single frames of stickers on backgrounds that are drawn again each time: the training data of the autoencoder.</summary>
internal sealed class LooseFrames(params StickerSet[] sets) : IClipSource
{
    public int Count => sets.Sum(set => set.Items.Length);

    public string Fingerprint => string.Join(", ", sets.Select(set => set.Fingerprint));

    public ValueTask<CaptionedClip> LoadAsync(int index, Random random, CancellationToken cancellationToken = default) =>
        ValueTask.FromResult(Load(index, random));

    public CaptionedClip Load(int index, Random random)
    {
        var i = index;
        foreach (var set in sets)
        {
            if (i < set.Items.Length)
            {
                return new CaptionedClip(set.On(i, Color(set, random), random.Next(set.Frames), 1), [set.Items[i].Thing]);
            }

            i -= set.Items.Length;
        }
        throw new ArgumentOutOfRangeException(nameof(index));
    }

    // Mostly colors of the palette, sometimes any, so that edges against all colors are learned.
    private static PaletteColor Color(StickerSet set, Random random) =>
        random.Next(4) > 0
            ? set.Palette[random.Next(set.Palette.Length)]
            : new PaletteColor("", "", [random.Next(256), random.Next(256), random.Next(256)]);
}

/// <summary>Stickers, whole, on some backgrounds of the palette each: what is encoded to latents.</summary>
internal sealed class StickersOnColors(StickerSet set, int[] chosen, int backgrounds) : IClipSource
{
    public int Count => chosen.Length * backgrounds;

    public string Fingerprint =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"{set.Fingerprint}, {chosen.Length} of them ({TrainingData.Hash(0, Array.ConvertAll(chosen, i => (long)i)):x}), "
                + $"on {backgrounds} of {string.Join(' ', set.Palette.Select(color => color.Name))}"
        );

    public ValueTask<CaptionedClip> LoadAsync(int index, Random random, CancellationToken cancellationToken = default) =>
        ValueTask.FromResult(Load(index, random));

    private CaptionedClip Load(int index, Random random)
    {
        using var scope = NewDisposeScope();
        var (turn, background) = Math.DivRem(index, backgrounds);
        var color = Color(turn, background);
        return new CaptionedClip(set.On(chosen[turn], color, 0, set.Frames).MoveToOuterDisposeScope(), set.CaptionsOn(chosen[turn], color));
    }

    /// <summary>Whether a sticker is among the clips on a color.</summary>
    /// <param name="turn">The sticker's place among the chosen.</param>
    /// <param name="color">A color of the palette.</param>
    public bool Shows(int turn, PaletteColor color) => Enumerable.Range(0, backgrounds).Any(background => Color(turn, background) == color);

    // White, and for each sticker its own choice of the others, so that all are equally frequent.
    private PaletteColor Color(int turn, int background)
    {
        var others = set.Palette.Length - 1;
        return background == 0
            ? set.Palette[0]
            : set.Palette[1 + (turn * 4 + turn / others + (background - 1) * others / Math.Max(1, backgrounds - 1)) % others];
    }
}
