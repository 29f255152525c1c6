using OpenSora.Preparation.PublicSets;
using OpenSora.Preparation.PublicSets.Downloads;

namespace OpenSora.Preparation.Tests.PublicSets;

public sealed class HostLimitsTests
{
    [Fact]
    public void HostsAreForgottenUnlessTheyAreUsedOrPaused()
    {
        var limits = new HostLimits(new DownloadOptions(), TimeProvider.System);
        using var used = limits.Rent(new Uri("http://used.test/a"));
        using (var paused = limits.Rent(new Uri("http://paused.test/a")))
        {
            paused.Host.Pause(TimeSpan.FromHours(1));
        }

        for (var i = 0; i < 3 * HostLimits.MaxHosts; i++)
        {
            limits.Rent(new Uri($"http://host{i}.test/{i}")).Dispose();
            limits.Count.ShouldBeLessThanOrEqualTo(HostLimits.MaxHosts);
        }

        using var again = limits.Rent(new Uri("http://used.test/b"));
        again.Host.ShouldBeSameAs(used.Host);
        using var stillPaused = limits.Rent(new Uri("http://paused.test/b"));
        stillPaused.Host.IsGivenUp.ShouldBeTrue(); // an hour is longer than MaxRetryAfter
        using var otherPort = limits.Rent(new Uri("http://used.test:81/b"));
        otherPort.Host.ShouldNotBeSameAs(used.Host);
    }

    [Fact]
    public async Task AHostThatIsGivenUpWhileAFileWaitsEndsTheWait()
    {
        var limits = new HostLimits(new DownloadOptions { DelayPerHost = TimeSpan.Zero }, TimeProvider.System);
        using var lease = limits.Rent(new Uri("http://a.test/"));
        using (await lease.Host.EnterAsync(TestContext.Current.CancellationToken))
        {
            lease.Host.Pause(TimeSpan.FromDays(10_000));
        }

        var failure = await Should.ThrowAsync<DownloadFailure>(() => lease.Host.EnterAsync(TestContext.Current.CancellationToken));
        (failure.Reason, failure.IsFinal).ShouldBe(("host is unavailable", false));
    }
}
