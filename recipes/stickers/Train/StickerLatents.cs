using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training.Data;

namespace Stickers;

/// <summary>Latents of stickers with tokenized captions, each kind encoded when it is first needed and then kept in a file.</summary>
/// <param name="place">The recipe and its folders.</param>
/// <param name="cancellation">Stops encoding.</param>
/// <param name="things">Only these things; null: all that are encoded.</param>
/// <param name="stage">Which frames of clips, and which motions; null: all.</param>
internal sealed class StickerLatents(
    Workplace place,
    CancellationToken cancellation,
    IReadOnlySet<string>? things = null,
    StageSettings? stage = null
) : IDisposable
{
    private readonly AutoencoderKL _vae = place.Vae();
    private readonly StickerSet _stills = StickerSet.Stills(place.Data),
        _clips = StickerSet.Clips(place.Data);
    private readonly ITokenizer _tokenizer = Tokenizers.SentencePiece(place.Tokenizer);
    private readonly Dictionary<string, LatentCache> _caches = new(StringComparer.Ordinal);
    private readonly Dictionary<(LatentCache, int?, string?), LatentData> _made = [];

    public IReadOnlyList<IReadOnlyList<string>> StillCaptions => StillCache(small: false, StickerSet.Usual).Captions;

    /// <summary>Single frames of clips.</summary>
    public LatentData OneFrames => Clips(ClipCache(small: false), 1);

    /// <summary>Stills, on some colours each, perhaps of half the size.</summary>
    public LatentData Stills(bool small = false, string style = StickerSet.Usual)
    {
        var chosen = place.Chosen(_stills, style);
        return Data(StillCache(small, style), i => _stills.Items[chosen[i / place.Recipe.StillBackgrounds]].Thing);
    }

    /// <summary>Clips of things that move by themselves.</summary>
    public LatentData Videos(bool small = false) => Clips(ClipCache(small), place.Recipe.Frames);

    /// <summary>Stills of the other things, moved, perhaps in one way only.</summary>
    public LatentData Moved(bool small = false, string style = StickerSet.Usual, string? motion = null)
    {
        var moved = place.Moved(_stills, _clips, small ? 2 : 1, style);
        return Data(
            Cache((small ? "small-moved" : "moved") + Of(style), () => moved),
            i => _stills.Items[moved.Clips[i].Sticker].Thing,
            place.Recipe.Frames,
            motion,
            i =>
                motion is null
                    ? stage?.Motions?.Contains(Phrase(i), StringComparer.Ordinal) != false
                    : string.Equals(motion, Phrase(i), StringComparison.Ordinal)
        );

        string Phrase(int clip) => moved.Clips[clip].Motion.Phrase;
    }

    private LatentCache StillCache(bool small, string style) =>
        Cache((small ? "small" : "stills") + Of(style), () =>
            new StickersOnColours(_stills, place.Chosen(_stills, style), place.Recipe.StillBackgrounds, small ? 2 : 1)
        );

    private LatentCache ClipCache(bool small) =>
        Cache(small ? "small-clips" : "clips", () =>
            new StickersOnColours(_clips, place.Chosen(_clips), place.Recipe.ClipBackgrounds, small ? 2 : 1)
        );

    private LatentData Clips(LatentCache cache, int frames)
    {
        var chosen = place.Chosen(_clips);
        return Data(cache, i => _clips.Items[chosen[i / place.Recipe.ClipBackgrounds]].Thing, frames);
    }

    private static string Of(string style) => string.Equals(style, StickerSet.Usual, StringComparison.Ordinal) ? "" : "-" + style;

    public void Dispose()
    {
        foreach (var data in _made.Values)
        {
            data.Dispose();
        }

        foreach (var cache in _caches.Values)
        {
            cache.Dispose();
        }

        _stills.Dispose();
        _clips.Dispose();
        _vae.Dispose();
    }

    private LatentCache Cache(string name, Func<IClipSource> source)
    {
        if (!_caches.TryGetValue(name, out var cache))
        {
            _caches[name] = cache = place.Cache(name, source(), _vae, cancellation);
        }

        return cache;
    }

    private LatentData Data(LatentCache cache, Func<int, string> thingOf, int? frames = null, string? motion = null, Func<int, bool>? taken = null)
    {
        if (!_made.TryGetValue((cache, frames, motion), out var data))
        {
            var some = Enumerable.Range(0, cache.Captions.Count).Where(i => things?.Contains(thingOf(i)) != false && taken?.Invoke(i) != false);
            var interval = frames > 1 ? stage?.FrameInterval ?? 1 : 1;
            _made[(cache, frames, motion)] = data = new LatentData(cache, _tokenizer, place.Recipe.Tokens, some, cleanCaptions: false)
            {
                Frames = (frames - 1) / interval + 1,
                FrameInterval = interval,
                FirstFrame = frames > 1 ? stage?.FirstFrame : null,
            };
        }
        return data;
    }
}
