namespace OpenSora.Preparation.Captions;

/// <summary>The body of an answer that ends with an error when it is too long, so that a broken server cannot fill the memory.</summary>
internal sealed class BoundedContent : Stream
{
    private const long MostBytes = 16 << 20;
    private readonly Stream _inner;
    private long _read;

    private BoundedContent(Stream inner) => _inner = inner;

    public override bool CanRead => true;

    public override bool CanSeek => false;

    public override bool CanWrite => false;

    public override long Length => throw new NotSupportedException();

    public override long Position
    {
        get => _read;
        set => throw new NotSupportedException();
    }

    /// <summary>Limits the length of a body.</summary>
    public static async Task<HttpContent> OfAsync(HttpContent content, CancellationToken cancellationToken)
    {
        var bounded = new StreamContent(new BoundedContent(await content.ReadAsStreamAsync(cancellationToken).ConfigureAwait(false)));
        foreach (var header in content.Headers)
        {
            bounded.Headers.TryAddWithoutValidation(header.Key, header.Value);
        }

        return bounded;
    }

    public override int Read(byte[] buffer, int offset, int count) => Counted(_inner.Read(buffer, offset, count));

    public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default) =>
        Counted(await _inner.ReadAsync(buffer, cancellationToken).ConfigureAwait(false));

    public override Task<int> ReadAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) =>
        ReadAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

    public override void Flush() { }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _inner.Dispose();
        }

        base.Dispose(disposing);
    }

    private int Counted(int count) =>
        (_read += count) <= MostBytes ? count : throw new InvalidDataException($"The answer of the server is longer than {MostBytes >> 20} MB.");
}
