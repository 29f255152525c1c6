using OpenSora.Preparation.PublicSets.Downloads;

namespace OpenSora.Preparation.Tests.PublicSets;

public sealed class RobotsRulesTests
{
    [Theory]
    [InlineData("/", true)]
    [InlineData("/a/b.mp4", false)]
    [InlineData("/a/public/b.mp4", true)]
    [InlineData("/x.gif", false)]
    [InlineData("/x.gif?a", true)]
    [InlineData("/page/1/end", false)]
    [InlineData("/page/1/ending", true)]
    [InlineData("/same", true)]
    public void RobotsRulesFollowTheStandard(string path, bool allowed)
    {
        var rules = RobotsRules.Parse(
            "# comment\nUser-agent: other\nDisallow: /\n\nUser-Agent: *\nDisallow: /nothing-for-us\n\nUSER-AGENT: Mine/2\nuser-agent: third\r\n"
                + "Disallow: /a/ # inline\nAllow: /a/public\nDisallow: /*.gif$\nDisallow:\nDisallow: /page/*/end$\nDisallow: /same\nAllow: /same\nCrawl-delay: 2.5\n",
            "mine/1.0 (contact)"
        );
        rules.Allows(path).ShouldBe(allowed);
        rules.CrawlDelay.ShouldBe(TimeSpan.FromSeconds(2.5));
        RobotsRules.Parse("User-agent: *\nDisallow: /a", "mine/1").Allows("/a/b").ShouldBeFalse();
        RobotsRules.Parse("<html>404: nothing</html>", "mine/1").Allows("/a/b").ShouldBeTrue();
    }
}
