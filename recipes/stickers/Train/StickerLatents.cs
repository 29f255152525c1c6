using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training;

namespace Stickers;

/// <summary>Latents of stickers with tokenized captions, each kind encoded when it is first needed and then kept in a file.</summary>
internal sealed class StickerLatents(Workplace place, CancellationToken cancellation) : IDisposable
{
    private readonly AutoencoderKL vae = place.Vae();
    private readonly StickerSet stills = StickerSet.Stills(place.Data), clips = StickerSet.Clips(place.Data);
    private readonly ITokenizer tokenizer = SentencePieceTokenizer.Open(place.Tokenizer);
    private readonly Dictionary<string, LatentCache> caches = new(StringComparer.Ordinal);
    private readonly Dictionary<(LatentCache, int?), LatentData> made = [];

    /// <summary>Stills of all chosen things, on some colours each.</summary>
    public LatentData Stills => Data(StillCache);

    public IReadOnlyList<IReadOnlyList<string>> StillCaptions => StillCache.Captions;

    /// <summary>The same at half the size.</summary>
    public LatentData Small => Data(Cache("small", () => new StickersOnColours(stills, place.Chosen(stills), place.Recipe.StillBackgrounds, shrink: 2)));

    /// <summary>Single frames of clips.</summary>
    public LatentData OneFrames => Data(ClipCache, 1);

    /// <summary>Clips of things that move by themselves.</summary>
    public LatentData Videos => Data(ClipCache, place.Recipe.Frames);

    /// <summary>Stills of the other things, moved.</summary>
    public LatentData Moved => Data(Cache("moved", () => place.Moved(stills, clips)), place.Recipe.Frames);

    private LatentCache StillCache => Cache("stills", () => new StickersOnColours(stills, place.Chosen(stills), place.Recipe.StillBackgrounds));

    private LatentCache ClipCache => Cache("clips", () => new StickersOnColours(clips, place.Chosen(clips), place.Recipe.ClipBackgrounds));

    public void Dispose()
    {
        foreach (var data in made.Values)
            data.Dispose();
        foreach (var cache in caches.Values)
            cache.Dispose();
        stills.Dispose();
        clips.Dispose();
        vae.Dispose();
    }

    private LatentCache Cache(string name, Func<IClipSource> source)
    {
        if (!caches.TryGetValue(name, out var cache))
            caches[name] = cache = place.Cache(name, source(), vae, cancellation);
        return cache;
    }

    private LatentData Data(LatentCache cache, int? frames = null)
    {
        if (!made.TryGetValue((cache, frames), out var data))
            made[(cache, frames)] = data = new LatentData(cache, tokenizer, place.Recipe.Tokens) { Frames = frames };
        return data;
    }
}
